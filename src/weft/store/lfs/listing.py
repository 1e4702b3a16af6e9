"""A safetensors file as a text: one line per tensor, whose bytes lie in the second place.

    weft-tensors 1
    metadata {"format": "pt"}
    header "{...}"                    only where the file's header is not the one that the library writes
    F32 [8, 1024] <sha256> <name>     sorted by name

The sha256 is that of the tensor in a file of its own, as a store keeps it, so equal tensors are kept once.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from weft.checks import MAX_ADAPTER, MAX_TENSOR
from weft.errors import AdapterFormatError
from weft.store.folder import exact_header
from weft.store.pointer import Pointer, pointer_to
from weft.tensor_file import (
    BITS,
    MAX_HEADER,
    MAX_TENSORS,
    Header,
    build,
    framed,
    is_texts,
    parse,
    split,
    start_of,
)

START = b"weft-tensors 1\n"
_ROW = re.compile(r"([A-Z0-9_]+) \[((?:\d{1,15}(?:, \d{1,15}){0,15})?)\] ([0-9a-f]{64}) (.+)", re.ASCII)
_LONGEST = 4 * MAX_HEADER


class Listing(NamedTuple):
    """A file without its tensors' bytes: its header, and the sha256 of each tensor by name."""

    header: Header
    sha256: Mapping[str, str]


def tensors_in(data: bytes, source: object) -> tuple[Header, Iterator[tuple[str, bytes]]]:
    """The header of a safetensors file, and every tensor's name and file of its own.

    Raises AdapterFormatError for a file that is damaged or over a limit.
    """
    header = split(data, source)
    for spec in header.specs:
        if spec.end - spec.begin > MAX_TENSOR:
            raise AdapterFormatError(f"{source}: {spec.name} is larger than {MAX_TENSOR} bytes")
    start = 8 + len(header.text)
    return header, (
        (spec.name, start_of(*spec[:3]) + data[start + spec.begin : start + spec.end])
        for spec in header.specs
    )


def listing_of(data: bytes, source: object, keep: Callable[[bytes], Pointer] = pointer_to) -> Listing:
    """List a safetensors file, once it is known to be whole; `keep` gets every tensor's file.

    Raises AdapterFormatError, and what `keep` raises.
    """
    header, tensors = tensors_in(data, source)
    return Listing(header, {name: keep(file).sha256 for name, file in tensors})


def listing_bytes(listing: Listing) -> bytes:
    """The text; equal files give equal texts."""
    header = listing.header
    lines = [START.decode().rstrip("\n")]
    if header.metadata is not None:
        lines.append(f"metadata {json.dumps(header.metadata, ensure_ascii=False)}")
    exact = exact_header(header)
    if exact is not None:
        lines.append(f"header {json.dumps(exact, ensure_ascii=False)}")
    lines += [
        f"{spec.dtype} {json.dumps(spec.shape)} {listing.sha256[spec.name]} {spec.name}"
        for spec in sorted(header.specs)
    ]
    return ("\n".join(lines) + "\n").encode()


def parse_listing(data: bytes, source: object) -> Listing | None:
    """The listing in a text, None for what is none. Raises AdapterFormatError for a damaged one.

    No safetensors file begins like a listing: it would state a header of 10^18 bytes.
    """
    if not data.startswith(START):
        return None
    if len(data) > _LONGEST or data.count(b"\n") > MAX_TENSORS + 3:
        raise AdapterFormatError(f"{source} is a listing of {len(data)} bytes, which is too long")
    said = {}
    try:
        _, *lines = data.decode().removesuffix("\n").split("\n")
        for key in ("metadata", "header"):
            if lines and lines[0].startswith(f"{key} "):
                said[key] = json.loads(lines.pop(0).removeprefix(f"{key} "))
        metadata, text = said.get("metadata"), said.get("header")
        if not (metadata is None or is_texts(metadata)) or not isinstance(text, str | None):
            raise AdapterFormatError(f"{source} is a damaged listing: metadata and header are texts")
        rows = [_row(line, source) for line in lines]
        header = build([row[:3] for row in rows], metadata)
    except AdapterFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{source} is a damaged listing: {error}") from error
    total = sum(spec.end - spec.begin for spec in header.specs)
    if total > MAX_ADAPTER or any(spec.end - spec.begin > MAX_TENSOR for spec in header.specs):
        raise AdapterFormatError(f"{source} lists {total} bytes of tensors, at most {MAX_ADAPTER} are read")
    # Also refuses what `build` lets pass: names that are given twice, or that steer a terminal.
    found = parse(header.text if text is None else text.encode(), total, source)
    if sorted(spec[:3] for spec in found.specs) != sorted(row[:3] for row in rows):
        raise AdapterFormatError(f"{source} is a damaged listing: its header speaks of other tensors")
    if found.metadata != metadata:
        raise AdapterFormatError(f"{source} is a damaged listing: its header has other metadata")
    return Listing(found, {row[0]: row[3] for row in rows})


def file_of_listing(listing: Listing, get: Callable[[Pointer, str], bytes]) -> list[bytes]:
    """The safetensors file, in pieces; `get` gives the bytes of a pointer, checked, for the tensor of a name.

    Raises what `get` raises, and AdapterFormatError where they are another tensor's.
    """
    parts = [framed(listing.header.text)]
    for spec in listing.header.specs:
        start = start_of(*spec[:3])
        size = len(start) + spec.end - spec.begin
        file = get(Pointer(listing.sha256[spec.name], size), spec.name)
        if not file.startswith(start):
            raise AdapterFormatError(
                f"sha256 {listing.sha256[spec.name]} is not the tensor {spec.name} "
                f"{spec.dtype} {list(spec.shape)}"
            )
        parts.append(file[len(start) :])
    return parts


def _row(line: str, source: object) -> tuple[str, str, tuple[int, ...], str]:
    found = _ROW.fullmatch(line)
    if found is None or found[1] not in BITS:
        raise AdapterFormatError(f"{source} is a damaged listing: {line!r:.80} is no line of it")
    dtype, shape, sha256, name = found.groups()
    return name, dtype, tuple(int(size) for size in shape.split(", ") if size), sha256
