"""Messages between the machines of a spread host: named values and tensors, and nothing that runs.

    "WEFT" | length of the body, 8 bytes | XXH3-128 of the body | CRC-32 of the 28 bytes before | body

The body is a safetensors file in memory whose metadata holds the values as JSON. The head is checked before
the body is read, the body before its values are looked at, so a flipped bit anywhere is noticed. What the
checksum has passed is read more briefly than a file that anybody may have written: as `encode` lays it out.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import xxhash
from torch import Tensor

from weft.errors import MessageError, WeftError
from weft.tensor_file import framed, header_size, strict_json

LIMIT = 1 << 30
"""Most bytes of a body."""
_HEAD = struct.Struct("<4sQ16sI")
HEAD_BYTES = _HEAD.size
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


def encode(message: Message) -> bytes:
    """A message as bytes. Raises MessageError for one above the limit, or with tensors that do not travel."""
    header: dict[str, Any] = {"__metadata__": {"values": _json(message.fields)}}
    parts: list[bytes | memoryview] = [b""]
    at = 0
    # The widest first, so that each lies at a multiple of its width.
    for name, tensor in sorted(message.tensors.items(), key=lambda named: -named[1].itemsize):
        if tensor.dtype not in _NAMES:
            raise MessageError(f"a tensor of {tensor.dtype} does not travel")
        part = tensor.reshape(-1).view(torch.uint8).numpy(force=True).data
        place = [at, at + len(part)]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        parts.append(part)
        at += len(part)
    text = _json(header).encode()
    parts[0] = framed(text + b" " * (-len(text) % 8))
    length = len(parts[0]) + at
    if length > LIMIT:
        raise MessageError(f"a message of {length} bytes, at most {LIMIT} are sent")
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    head = MAGIC + length.to_bytes(8, "little") + digest.digest()
    return b"".join([head, zlib.crc32(head).to_bytes(4, "little"), *parts])


def decode(data: bytes) -> Message:
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
    magic, length, digest, crc = _HEAD.unpack(head)
    if magic != MAGIC or crc != zlib.crc32(head[:-4]):
        raise MessageError("a message has a damaged head")
    if length > LIMIT:
        raise MessageError(f"a message announces {length} bytes, at most {LIMIT} are read")
    body = _exactly(read, length)
    if xxhash.xxh3_128_digest(body) != digest:
        raise MessageError("a message does not have the checksum that it announces")
    return _opened(body)


def _opened(body: bytearray) -> Message:
    """The values and tensors of a body; tensors lie in its memory."""
    try:
        start = 8 + header_size(bytes(body[:8]), len(body), "a message")
        header = strict_json(bytes(body[8:start]), "a message")
        values = strict_json(header.pop("__metadata__")["values"].encode(), "a message")
        tensors, at = {}, 0
        for name, told in header.items():
            dtype, (begin, end) = _TYPES[told["dtype"]], told["data_offsets"]
            shape = [_whole(size, "shape", LIMIT) for size in told["shape"][:_DIMS]]
            count = math.prod(shape)
            lies = begin == at and end == at + count * dtype.itemsize and not (start + at) % dtype.itemsize
            # Neither the number of elements nor the strides of none at all may overflow.
            fits = lies and end <= len(body) - start and math.prod(filter(None, shape)) <= LIMIT
            if not fits or len(shape) != len(told["shape"]):
                raise MessageError(f"a tensor of {dtype} {shape} does not lie from {begin!r} to {end!r}")
            if count:
                flat = torch.frombuffer(body, dtype=dtype, count=count, offset=start + at)
            else:
                flat = torch.empty(0, dtype=dtype)
            tensors[name], at = flat.view(shape), end
    except (WeftError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MessageError(f"a message cannot be read: {' '.join(str(error).split())[:200]}") from error
    if start + at != len(body):
        raise MessageError(f"a message of {len(body)} bytes speaks of {start + at}")
    return Message(values, tensors)


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
