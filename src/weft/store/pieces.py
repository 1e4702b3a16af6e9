"""A tensor in pieces: what it was, then the rows or columns that were stacked onto it.

    <tensor>.safetensors, <tensor>+1.safetensors, <tensor>+2.safetensors, ...

    lora_A [R, I]: pieces are rows       lora_B [O, R]: pieces are columns

No tensor's file has a plus sign in its name, so pieces are never taken for tensors of their own.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from weft.errors import AdapterFormatError, ShapeError
from weft.store.layout import SUFFIX, check_tensor
from weft.tensor_file import BITS

_PIECE = re.compile(r"(.+)\+([1-9][0-9]{0,3})" + re.escape(SUFFIX))


class Values(NamedTuple):
    """A tensor's raw bytes, row by row."""

    dtype: str
    shape: tuple[int, ...]
    raw: bytes


def split_file(file: str) -> tuple[str, int]:
    """The file of the tensor that a file holds a piece of, and the number of the piece, 0 for the first."""
    match = _PIECE.fullmatch(file)
    return (match[1] + SUFFIX, int(match[2])) if match else (file, 0)


def piece_file(file: str, number: int) -> str:
    """Name of one piece."""
    return f"{file.removesuffix(SUFFIX)}+{number}{SUFFIX}" if number else file


def pieces_of(files: Iterable[str], source: object) -> dict[str, list[str]]:
    """The pieces of every tensor in order, by the tensor's file. Raises AdapterFormatError for a gap."""
    found: dict[str, dict[int, str]] = {}
    for file in files:
        whole, number = split_file(file)
        found.setdefault(whole, {})[number] = file
    for whole, numbers in found.items():
        missing = next((n for n in range(len(numbers)) if n not in numbers), None)
        if missing is not None:
            raise AdapterFormatError(
                f"{source}: {piece_file(whole, missing)} is missing before {numbers[max(numbers)]}"
            )
    return {whole: [numbers[n] for n in range(len(numbers))] for whole, numbers in found.items()}


def joined_shape(
    name: str, parts: Iterable[tuple[str, tuple[int, ...]]], source: object
) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of a tensor from those of its pieces. Raises AdapterFormatError for a misfit."""
    (dtype, shape), *more = parts
    for other, its in more:
        at = _axis(name)
        if at is None or len(shape) < 2 or len(its) != len(shape) or other != dtype:
            raise AdapterFormatError(
                f"{source}: {name} is in pieces that are no rows or columns of one tensor"
            )
        rest = math.prod(its[1:] if at == 0 else its[2:])
        if shape[:at] + shape[at + 1 :] != its[:at] + its[at + 1 :] or rest * BITS[dtype] % 8:
            raise AdapterFormatError(f"{source}: {name} has pieces of {list(shape)} and {list(its)}")
        shape = (*shape[:at], shape[at] + its[at], *shape[at + 1 :])
    check_tensor(name, shape, source)
    return dtype, shape


def join(name: str, parts: list[Values], source: object) -> Values:
    """The whole tensor, to the byte. Raises AdapterFormatError for pieces that do not fit each other."""
    dtype, shape = joined_shape(name, [part[:2] for part in parts], source)
    if len(parts) == 1:
        return parts[0]
    if _axis(name) == 0:
        return Values(dtype, shape, b"".join(part.raw for part in parts))
    widths = [len(part.raw) // shape[0] if shape[0] else 0 for part in parts]
    return Values(
        dtype,
        shape,
        b"".join(
            part.raw[row * width : (row + 1) * width]
            for row in range(shape[0])
            for part, width in zip(parts, widths, strict=True)
        ),
    )


def cut(name: str, old: Values, new: Values, source: object) -> Values | None:
    """What a tensor has beyond an older one, None where they are equal; `join` puts it back.

    Raises ShapeError where the new one is not the old one with more rows or columns, to the bit.
    """
    if new == old:
        return None
    at = _axis(name)
    what = f"{source}: {name} is {new.dtype} {list(new.shape)}, the parent's is {old.dtype} {list(old.shape)}"
    grows = (
        at is not None
        and new.dtype == old.dtype
        and len(new.shape) == len(old.shape) > at
        and new.shape[:at] + new.shape[at + 1 :] == old.shape[:at] + old.shape[at + 1 :]
        and new.shape[at] >= old.shape[at]
        and math.prod(new.shape[at + 1 :]) * BITS[new.dtype] % 8 == 0
    )
    if at is None or not grows:
        raise ShapeError(f"{what}; only lora_A and lora_B may grow, by their rank")
    rows = new.shape[0] if at else 1
    whole, kept = (len(raw) // rows if rows else 0 for raw in (new.raw, old.raw))
    starts = range(0, rows * whole, whole or 1)
    if b"".join(new.raw[start : start + kept] for start in starts) != old.raw:
        raise ShapeError(
            f"{what}; its first {old.shape[at]} of rank differ, they have to be the parent's to the bit"
        )
    shape = (*new.shape[:at], new.shape[at] - old.shape[at], *new.shape[at + 1 :])
    return Values(new.dtype, shape, b"".join(new.raw[start + kept : start + whole] for start in starts))


def count_tensors(files: Mapping[str, str]) -> int:
    """How many tensors lie in these files, however many pieces they are in."""
    return sum(split_file(file)[1] == 0 for file in files)


def _axis(name: str) -> int | None:
    """The axis of the rank."""
    return 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
