"""A PEFT folder taken apart into one file per tensor, and put together again to the byte."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from weft.checks import MAX_ADAPTER, MAX_TENSOR, weights_file
from weft.errors import AdapterFormatError, MissingFileError
from weft.files import resolve
from weft.reading import refuse_pointer
from weft.store.layout import CARD, CONFIG, MAX_TEXT, check_halves, check_portable, check_tensor, file_of
from weft.store.pieces import Values, join, piece_file, pieces_of, split_file
from weft.tensor_file import (
    Header,
    build,
    framed,
    header_size,
    is_finite,
    parse,
    split,
    start_of,
    strict_json,
)


class Parts(NamedTuple):
    """A PEFT folder in pieces."""

    texts: Mapping[str, bytes]
    """The config, and the card where there is one, by file name."""
    tensors: Mapping[str, bytes]
    """One safetensors file per tensor, by file name."""
    header: Header
    left_out: tuple[str, ...]
    """Other files of the folder, which are not taken in."""


def take_apart(path: str | os.PathLike[str]) -> Parts:
    """Read a PEFT folder, an adapter that ships with Weft (`weft/...`), or the safetensors file in a folder.

    Raises MissingFileError, and AdapterFormatError for damage, a pickle, NaN, half a LoRA, or a size over
    its limit.
    """
    given = Path(path)
    if given.is_file() and given.suffix == ".safetensors":
        folder, file = given.parent, given
    else:
        found = resolve(path)
        if found is None:
            raise MissingFileError(f"no adapter folder at {os.fspath(path)}")
        folder, file = found, weights_file(found)
    texts = {CONFIG: _read_text(folder / CONFIG)}
    strict_json(texts[CONFIG], folder / CONFIG)
    if (folder / CARD).is_file():
        texts[CARD] = _read_text(folder / CARD)
    header, tensors = _take_tensors(file)
    taken = {CONFIG, CARD, file.name}
    others = sorted(found.name for found in folder.iterdir() if found.name not in taken)
    return Parts(texts, tensors, header, tuple(others))


def exact_header(header: Header) -> str | None:
    """The header's text where the library would have written another one, else None."""
    usual = build(((s.name, s.dtype, s.shape) for s in header.specs), header.metadata)
    return None if usual.text == header.text else header.text.decode()


def put_together(
    blobs: Iterable[tuple[str, bytes]],
    metadata: Mapping[str, str] | None,
    text: str | None,
    source: object,
) -> tuple[bytes, list[bytes], bool]:
    """The file of many single-tensor files (name, content): its header, its tensors, and whether it is exact.

    `text` is the header that the file had. Where the tensors no longer fit it (a merge changed their shapes)
    the usual header is written, and the last value is False. Raises AdapterFormatError.
    """
    read = {file: read_tensor(file, blob, source) for file, blob in blobs}
    data: dict[str, Values] = {}
    pieces = pieces_of(read, source)
    for files in pieces.values():
        name = read[files[0]][0]
        data[name] = join(name, [read[file][1] for file in files], source)
    check_halves({name: values.shape for name, values in data.items()}, pieces, source)
    header = build(((name, dtype, shape) for name, (dtype, shape, _) in data.items()), metadata)
    exact = True
    if text is not None:
        total = sum(len(raw) for _, _, raw in data.values())
        try:
            former = parse(text.encode(), total, source)
        except AdapterFormatError:
            former = None
        exact = former is not None and {s.name: (s.dtype, s.shape) for s in former.specs} == {
            name: (dtype, shape) for name, (dtype, shape, _) in data.items()
        }
        if former is not None and exact:
            header = former
    return framed(header.text), [data[spec.name][2] for spec in header.specs], exact


def read_tensor(file: str, blob: bytes, folder: object) -> tuple[str, Values]:
    """Name and values in one single-tensor file. Raises AdapterFormatError."""
    source = f"{folder}/{file}"
    header = split(blob, source)
    if len(header.specs) != 1 or header.metadata is not None:
        raise AdapterFormatError(f"{source} should hold one tensor and no metadata")
    name, dtype, shape, _, _ = header.specs[0]
    whole, number = split_file(file)
    if file_of(name) != whole:
        raise AdapterFormatError(
            f"{source} holds the tensor {name!r:.80}, which belongs into {piece_file(file_of(name), number)}"
        )
    raw = blob[8 + len(header.text) :]
    _check(name, dtype, shape, raw, source)
    return name, Values(dtype, shape, raw)


def _take_tensors(file: Path) -> tuple[Header, dict[str, bytes]]:
    size = file.stat().st_size
    if size > MAX_ADAPTER:
        raise AdapterFormatError(f"{file} has {size} bytes, at most {MAX_ADAPTER} are stored")
    with file.open("rb") as handle:
        length = header_size(handle.read(8), size, file)
        header = parse(handle.read(length), size - 8 - length, file)
        if not header.specs:
            raise AdapterFormatError(f"{file} holds no tensors")
        check_portable((spec.name for spec in header.specs), file)
        tensors = {}
        for spec in header.specs:  # in the order of their bytes, end to end
            if spec.end - spec.begin > MAX_TENSOR:
                raise AdapterFormatError(f"{file}: {spec.name} is larger than {MAX_TENSOR} bytes")
            raw = handle.read(spec.end - spec.begin)
            _check(spec.name, spec.dtype, spec.shape, raw, file)
            tensors[file_of(spec.name)] = start_of(*spec[:3]) + raw
        check_halves({spec.name: spec.shape for spec in header.specs}, tensors, file)
    return header, tensors


def _check(name: str, dtype: str, shape: tuple[int, ...], raw: bytes, source: object) -> None:
    check_tensor(name, shape, source)
    if not is_finite(dtype, raw):
        raise AdapterFormatError(f"{source}: {name} holds NaN or infinity")


def _read_text(file: Path) -> bytes:
    if not file.is_file():
        raise MissingFileError(f"no such file: {file}")
    if file.stat().st_size > MAX_TEXT:
        raise AdapterFormatError(f"{file} has {file.stat().st_size} bytes, at most {MAX_TEXT} are stored")
    content = file.read_bytes()
    refuse_pointer(content, str(file))
    return content
