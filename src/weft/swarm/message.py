"""Messages between the machines of a spread host: named values and tensors, and nothing that runs.

    "WEFT" | length of the values, 4 bytes | length of both, 8 bytes | XXH3-128 of both
           | CRC-32 of the 32 bytes before | values | tensors

Values are JSON, filled with spaces to a multiple of 8 bytes; tensors are a safetensors file in memory.
The head is checked before the rest is read, and that before it is looked at, so a flipped bit is noticed.
What the checksum has passed is read more briefly than a file that anybody may have written.
"""

from __future__ import annotations

import ctypes
import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import xxhash
from torch import Tensor

from weft.errors import MessageError, WeftError
from weft.plain import reason_of
from weft.tensor_file import MAX_HEADER, framed, header_size, strict_json

LIMIT = 1 << 30
"""Most bytes of a body. Its values are at most MAX_HEADER of them, as the header of its tensors is."""
_HEAD = struct.Struct("<4sIQ16s")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size
MAGIC = b"WEFT"
_CHUNK = 1 << 20
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What travels, as safetensors names it."""
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_DIMS = 16
"""A tensor has at most so many."""
_REMEMBERED = 4096
"""Bytes of a header that is read once for all messages that have it."""
_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_MOST = 1 << 53
"""Whole numbers are at most so large, which JSON keeps everywhere."""


def _none() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Message:
    """Values and tensors by name. What it holds is looked at through its methods, which check it."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=_none)

    def whole(self, name: str, most: int = _MOST) -> int:
        """A number of 0 to `most`. Raises MessageError for anything else."""
        return _whole(self.fields.get(name), name, most)

    def wholes(self, name: str, most: int = _MOST) -> list[int]:
        """A list of such numbers. Raises MessageError for anything else."""
        return [_whole(value, name, most) for value in self.list(name)]

    def text(self, name: str) -> str:
        """A text. Raises MessageError for anything else."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise MessageError(f"a message has no text {name!r}")
        return value

    def list(self, name: str) -> Sequence[Any]:
        """A list. Raises MessageError for anything else."""
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise MessageError(f"a message has no list {name!r}")
        return value

    def tensor(self, name: str, dims: int) -> Tensor:
        """A tensor of so many dimensions. Raises MessageError for anything else."""
        value = self.tensors.get(name)
        if value is None or value.dim() != dims:
            raise MessageError(f"a message has no tensor {name!r} of {dims} dimensions")
        return value


def encode(message: Message) -> bytearray:
    """A message as bytes. Raises MessageError for one above a limit, or with tensors that do not travel."""
    # The widest first, so that each lies at a multiple of its width.
    named = sorted(message.tensors.items(), key=lambda named: -named[1].itemsize)
    values = _json(message.fields).encode()
    values += b" " * (-len(values) % 8)
    laid = tuple((name, tensor.dtype, tensor.shape) for name, tensor in named)
    header = _header(laid) if laid else b""
    length = len(values) + len(header) + sum(tensor.nbytes for _, tensor in named)
    if length > LIMIT or max(len(values), len(header)) > MAX_HEADER:
        told = f"{len(values)} bytes of values and {len(header)} of names in {length}"
        raise MessageError(f"a message has {told}, at most {MAX_HEADER} of each in {LIMIT} are sent")
    data = bytearray(HEAD_BYTES + length)
    at = HEAD_BYTES + len(values) + len(header)
    data[HEAD_BYTES:at] = values + header
    start = ctypes.addressof(ctypes.c_char.from_buffer(data))
    for _, tensor in named:
        plain = tensor.cpu().contiguous()
        ctypes.memmove(start + at, plain.data_ptr(), plain.nbytes)
        at += plain.nbytes
    with memoryview(data) as whole:
        digest = xxhash.xxh3_128_digest(whole[HEAD_BYTES:])
        _HEAD.pack_into(data, 0, MAGIC, len(values), length, digest)
        _CRC.pack_into(data, _HEAD.size, zlib.crc32(whole[: _HEAD.size]))
    return data


def decode(data: bytes | bytearray) -> Message:
    """The message that whole bytes are. Raises MessageError for anything that `encode` has not written."""
    source = memoryview(data)

    def read(count: int) -> bytes:
        nonlocal source
        part, source = bytes(source[:count]), source[count:]
        return part

    message = receive(read)
    if len(source):
        raise MessageError(f"{len(source)} bytes follow a message")
    return message


def receive(read: Callable[[int], bytes]) -> Message:
    """Read one message; `read(n)` gives n bytes, or fewer at the end of a stream.

    What is allocated grows with what has arrived, at most to the limit. Raises MessageError for a damaged
    message, and what `read` raises.
    """
    head = _exactly(read, HEAD_BYTES)
    magic, begin, length, digest = _HEAD.unpack_from(head)
    if magic != MAGIC or _CRC.unpack_from(head, _HEAD.size)[0] != zlib.crc32(head[: _HEAD.size]):
        raise MessageError("a message has a damaged head")
    # Values become many small objects, far larger than their text: fewer bytes of them than of tensors.
    if not begin <= length <= LIMIT or begin > MAX_HEADER or begin % 8:
        told = f"{begin} bytes of values in {length}"
        raise MessageError(f"a message announces {told}, at most {MAX_HEADER} in {LIMIT} are read")
    body = _exactly(read, length)
    if xxhash.xxh3_128_digest(body) != digest:
        raise MessageError("a message does not have the checksum that it announces")
    try:
        values = strict_json(bytes(body[:begin]), "a message")
        tensors = _opened(body, begin) if begin < length else {}
    except (WeftError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MessageError(f"a message cannot be read: {reason_of(error)}") from error
    return Message(values, tensors)


def _opened(body: bytearray, begin: int) -> dict[str, Tensor]:
    """The tensors of a body, which lie in its memory from a place on."""
    start = 8 + header_size(bytes(body[begin : begin + 8]), len(body) - begin, "a message")
    header, size = bytes(body[begin + 8 : begin + start]), len(body) - begin - start
    laid = _laid(header, size) if start <= _REMEMBERED else _laid.__wrapped__(header, size)
    tensors = {}
    for name, dtype, shape, count, at in laid:
        if count:
            flat = torch.frombuffer(body, dtype=dtype, count=count, offset=begin + start + at)
        else:
            flat = torch.empty(0, dtype=dtype)
        tensors[name] = flat.view(shape)
    return tensors


# Tensors of the same names and shapes come again and again: their headers are written and read once.
@lru_cache(256)
def _header(laid: tuple[tuple[str, torch.dtype, torch.Size], ...]) -> bytes:
    """The header of tensors of such names, types and shapes, end to end."""
    header, at = {}, 0
    for name, dtype, shape in laid:
        if dtype not in _NAMES:
            raise MessageError(f"a tensor of {dtype} does not travel")
        place = [at, at + shape.numel() * dtype.itemsize]
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": place}
        at = place[1]
    text = _json(header).encode()
    return framed(text + b" " * (-len(text) % 8))


@lru_cache(256)
def _laid(header: bytes, size: int) -> tuple[tuple[str, torch.dtype, tuple[int, ...], int, int], ...]:
    """Name, type, shape, number of elements and place of every tensor in `size` bytes."""
    laid, at, start = [], 0, 8 + len(header)
    for name, told in strict_json(header, "a message").items():
        dtype, (begin, end) = _TYPES[told["dtype"]], told["data_offsets"]
        shape = tuple(_whole(one, "shape", LIMIT) for one in told["shape"][:_DIMS])
        count = math.prod(shape)
        lies = begin == at and end == at + count * dtype.itemsize and not (start + at) % dtype.itemsize
        # Neither the number of elements nor the strides of none at all may overflow.
        fits = lies and end <= size and math.prod(filter(None, shape)) <= LIMIT
        if not fits or len(shape) != len(told["shape"]):
            raise MessageError(f"a tensor of {dtype} {shape} does not lie from {begin!r} to {end!r}")
        laid.append((name, dtype, shape, count, at))
        at = end
    if at != size:
        raise MessageError(f"{size} bytes of tensors, the header speaks of {at}")
    return tuple(laid)


def _exactly(read: Callable[[int], bytes], count: int) -> bytearray:
    parts = bytearray()
    while len(parts) < count:
        part = read(min(count - len(parts), _CHUNK))
        if not part:
            raise MessageError(f"a message ends after {len(parts)} of {count} bytes")
        parts += part
    return parts


def _whole(value: Any, name: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise MessageError(f"a message should have a number of 0 to {most} as {name!r}")
    return value
