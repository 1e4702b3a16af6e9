"""The header of a safetensors file, checked before anything that it promises is allocated.

A file is 8 bytes of length (little-endian), so many bytes of JSON, then the tensors end to end:

    {"__metadata__": {str: str}, name: {"dtype": str, "shape": [int], "data_offsets": [begin, end]}, ...}
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import AdapterFormatError

MAX_HEADER = 16 << 20
"""Bytes of JSON; 100,000 tensors need about so many."""
MAX_TENSORS = 100_000
_MAX_DIMS, _MAX_SIZE, _LONGEST_NAME = 16, 1 << 48, 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ALIGNMENT = 8
_LFS = b"version "

# In the order of the library, which writes tensors of the last types first. Bits of one element.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_ORDER = {dtype: place for place, dtype in enumerate(BITS)}


class Spec(NamedTuple):
    """One tensor as a header states it; `begin` and `end` count bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """A checked header: its JSON text, its tensors in the order of their bytes, and its metadata."""

    text: bytes
    specs: tuple[Spec, ...]
    metadata: Mapping[str, str] | None


def header_size(first: bytes, file_size: int, source: object) -> int:
    """Bytes of JSON that the first 8 bytes announce. Raises AdapterFormatError when the file has fewer."""
    if first[:8] == _LFS:
        raise AdapterFormatError(f"{source} is a git-lfs pointer in place of the file; run git lfs pull")
    size = int.from_bytes(first[:8], "little")
    if len(first) < 8 or size > file_size - 8:
        raise AdapterFormatError(f"{source} is no safetensors file, or cut short ({file_size} bytes)")
    if size > MAX_HEADER:
        raise AdapterFormatError(f"{source} has a header of {size} bytes, at most {MAX_HEADER} are read")
    return size


def parse(text: bytes, data_size: int, source: object) -> Header:
    """Check the JSON of a header against the bytes that follow it. `source` names the file in errors.

    Raises AdapterFormatError for anything but known types and tensors that lie end to end.
    """
    values = strict_json(text, source)
    metadata = values.pop("__metadata__", None)
    if metadata is not None and not is_texts(metadata):
        raise AdapterFormatError(f"{source}: the metadata should map texts to texts")
    if len(values) > MAX_TENSORS:
        raise AdapterFormatError(f"{source} has {len(values)} tensors, at most {MAX_TENSORS} are read")
    specs = sorted((_spec(name, value, source) for name, value in values.items()), key=lambda s: s[3:])
    at = 0
    for spec in specs:
        if spec.begin != at:
            raise AdapterFormatError(
                f"{source}: {spec.name} begins at byte {spec.begin}, the tensor before it ends at {at}"
            )
        at = spec.end
    if at != data_size:
        raise AdapterFormatError(f"{source} holds {data_size} bytes of tensors, its header speaks of {at}")
    return Header(text, tuple(specs), metadata)


def split(data: bytes, source: object) -> Header:
    """Header of a whole file in memory; its tensors begin at byte `8 + len(header.text)`."""
    size = header_size(data[:8], len(data), source)
    return parse(data[8 : 8 + size], len(data) - 8 - size, source)


def read_header(file: Path) -> Header:
    """The header of a file on disk, against the file's size; no tensor is read. Raises AdapterFormatError."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = header_size(handle.read(8), size, file)
        return parse(handle.read(length), size - 8 - length, file)


def build(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> Header:
    """The header that the safetensors library writes for (name, dtype, shape): compact, padded with spaces.

    Tensors come by type, the widest first, then by name.
    """
    specs, at = [], 0
    for name, dtype, shape in sorted(tensors, key=lambda t: (-_ORDER[t[1]], t[0])):
        size = math.prod(shape) * BITS[dtype] // 8
        specs.append(Spec(name, dtype, tuple(shape), at, at + size))
        at += size
    return Header(header_text(specs, metadata), tuple(specs), metadata)


def header_text(specs: Iterable[Spec], metadata: Mapping[str, str] | None) -> bytes:
    """The JSON of a header whose tensors stay where they are."""
    fields: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    for spec in specs:
        fields[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [spec.begin, spec.end],
        }
    text = _encoder.encode(fields).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)


def framed(text: bytes) -> bytes:
    """A header's text with its length before it."""
    return len(text).to_bytes(8, "little") + text


def start_of(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the bytes of a tensor in a file of its own."""
    return framed(build([(name, dtype, shape)]).text)


def strict_json(text: bytes, source: object) -> dict[str, Any]:
    """A JSON object in UTF-8 without repeated keys, NaN or broken characters. Raises AdapterFormatError."""
    try:
        decoded = text.decode().lstrip(_SPACE)
        values, end = _decoder.raw_decode(decoded)
        if decoded[end:].strip(_SPACE):
            raise ValueError(f"more follows after character {end}")
        # An escaped half of a character parses, and cannot be written again.
        if "\\u" in decoded:
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise AdapterFormatError(f"{source}: not valid JSON: {reason}") from error
    if not isinstance(values, dict):
        raise AdapterFormatError(f"{source} should hold keys and values, it holds {values!r:.40}")
    return values


def _spec(name: str, value: Any, source: object) -> Spec:
    if not name or len(name) > _LONGEST_NAME or _CONTROL.search(name):
        raise AdapterFormatError(f"{source}: {name!r:.80} is no name for a tensor")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise AdapterFormatError(f"{source}: {name} should have a dtype, a shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise AdapterFormatError(f"{source}: {name} has the unknown dtype {dtype!r:.40}")
    if not _is_sizes(shape) or len(shape) > _MAX_DIMS:
        raise AdapterFormatError(f"{source}: {name} has the impossible shape {shape!r:.80}")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise AdapterFormatError(f"{source}: {name} has the impossible data_offsets {offsets!r:.80}")
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise AdapterFormatError(
            f"{source}: {name} has {offsets[1] - offsets[0]} bytes, {dtype} {shape} needs {bits / 8:g}"
        )
    return Spec(name, dtype, tuple(shape), offsets[0], offsets[1])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x <= _MAX_SIZE for x in value)


def is_texts(value: Any) -> bool:
    """Whether a JSON value maps texts to texts."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


# Made once: `json.loads` and `json.dumps` make theirs anew for every tensor.
_SPACE = " \t\n\r"
_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


# A value is not finite when all bits of its exponent are 1. In IEEE types those lie in the top byte, some
# also in the byte below; the top bytes alone, one slice, clear nearly every tensor.
def _tops(mask: int, full: int) -> bytes:
    return bytes(top for top in range(256) if top & mask == full)


# dtype: bytes of an element, which top bytes are suspicious, and whether the byte below settles it.
_TYPES: dict[str, tuple[int, bytes, Callable[[int], bool]]] = {
    "F64": (8, _tops(0x7F, 0x7F), lambda below: below & 0xF0 == 0xF0),
    "F32": (4, _tops(0x7F, 0x7F), lambda below: below & 0x80 == 0x80),
    "BF16": (2, _tops(0x7F, 0x7F), lambda below: below & 0x80 == 0x80),
    "F16": (2, _tops(0x7C, 0x7C), lambda _: True),
    "F8_E5M2": (1, _tops(0x7C, 0x7C), lambda _: True),
    "F8_E4M3": (1, _tops(0x7F, 0x7F), lambda _: True),
    "F8_E8M0": (1, b"\xff", lambda _: True),
    "F8_E4M3FNUZ": (1, b"\x80", lambda _: True),
    "F8_E5M2FNUZ": (1, b"\x80", lambda _: True),
}
_TYPES["C64"] = _TYPES["F32"]


def is_finite(dtype: str, data: bytes) -> bool:
    """Whether every value of a tensor is finite; types without NaN and infinity always are."""
    if dtype not in _TYPES:
        return True
    width, suspicious, settles = _TYPES[dtype]
    tops = data[width - 1 :: width]
    for top in suspicious:
        at = tops.find(top)
        while at >= 0:
            if settles(data[at * width + width - 2]):
                return False
            at = tops.find(top, at + 1)
    return True
