"""Messages between the machines of a spread host: named values and tensors, and nothing that runs.

    "WEFT" | length of the body, 8 bytes | XXH3-128 of the body | CRC-32 of the 28 bytes before | body

The body is a safetensors file in memory whose metadata holds the values as JSON. The head is checked before
the body is read, the body before its values are looked at, so a flipped bit anywhere is noticed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import xxhash
from torch import Tensor

from weft.errors import MessageError, WeftError
from weft.tensor_file import split, strict_json

LIMIT = 1 << 30
"""Most bytes of a body."""
_HEAD = struct.Struct("<4sQ16sI")
HEAD_BYTES = _HEAD.size
MAGIC = b"WEFT"
_CHUNK = 1 << 20
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
    """A message as bytes. Raises MessageError for one above the limit."""
    tensors, seen = {}, set()
    for name, tensor in message.tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        # The library refuses tensors that lie in one block of memory, as parts of a bank do.
        tensors[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    body = safetensors.torch.save(tensors, {"values": json.dumps(message.fields, allow_nan=False)})
    if len(body) > LIMIT:
        raise MessageError(f"a message of {len(body)} bytes, at most {LIMIT} are sent")
    head = MAGIC + len(body).to_bytes(8, "little") + _digest(body)
    return head + zlib.crc32(head).to_bytes(4, "little") + body


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
    if _digest(body) != digest:
        raise MessageError("a message does not have the checksum that it announces")
    return _opened(body)


def _opened(body: bytes) -> Message:
    try:
        header = split(body, "a message")
        values = strict_json((header.metadata or {}).get("values", "").encode(), "a message")
        return Message(values, safetensors.torch.load(body))
    except (WeftError, safetensors.SafetensorError, KeyError, UnicodeError) as error:
        raise MessageError(f"a message cannot be read: {' '.join(str(error).split())[:200]}") from error


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = read(min(count - len(parts), _CHUNK))
        if not part:
            raise MessageError(f"a message ends after {len(parts)} of {count} bytes")
        parts += part
    return bytes(parts)


def _digest(body: bytes) -> bytes:
    return xxhash.xxh3_128_digest(body)


def _whole(value: Any, name: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise MessageError(f"a message should have a number of 0 to {most} as {name!r}")
    return value
