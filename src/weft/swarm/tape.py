"""The journal on disk: what stages have said in every step, so that a coordinator may be started again.

A coordinator that was killed runs the same program again over the same file. The steps that are written there
are not done again: their states are heard from the file, so every draw, controller and change comes out as it
did, and no token is lost, doubled or different. From the first step that is not there on, stages are asked.
A step is written before its logits are given. A file is flushed to the system, not to the disk: it survives
the death of the process, not of the machine.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.errors import ConfigError, MessageError, SaveError
from weft.rows import Stepped
from weft.swarm.message import MAGIC, Message, encode, receive


class Tape:
    """A file of messages: first those that are there are heard, then new ones are added.

    A last message that was half written is cut off. Raises SaveError for a file that cannot be written,
    ConfigError for one that another coordinator writes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what a full disk refuses is not tried again when the file is closed.
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise SaveError(f"the journal {self.path} cannot be written: {error.strerror}") from error
        if not self._file.seekable():
            self._file.close()
            raise SaveError(f"the journal {self.path} is a pipe or a terminal; name a file")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"another run writes the journal {self.path}; give each its own") from error
        weakref.finalize(self, self._file.close)  # a run that ends without `close` leaves no open file
        self._file.seek(0)
        self._size = os.fstat(self._file.fileno()).st_size
        self.heard = 0
        """How many messages were there and have been given."""

    @property
    def plays(self) -> bool:
        """Whether there is more to hear."""
        return self._file.tell() < self._size

    def hear(self) -> Message | None:
        """The next message that is there; None when all were heard, and new ones may be added.

        Raises ConfigError, and leaves the file as it is, where it is damaged elsewhere, or no journal.
        """
        begun = self._file.tell()
        if begun >= self._size:
            return None
        try:
            message = receive(self._read)
        except MessageError as error:
            more = self._file.tell() < self._size
            self._file.seek(begun)
            if more or not MAGIC.startswith(self._read(len(MAGIC))):
                raise ConfigError(
                    f"{self.path} is no journal, or damaged at byte {begun}: {error}"
                ) from error
            self._file.seek(begun)
            self._file.truncate(begun)
            self._size = begun
            return None
        self.heard += 1
        return message

    def add(self, message: Message) -> None:
        """Write a message whole. Raises SaveError when the disk refuses; the file is then as it was."""
        left = memoryview(encode(message))
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise SaveError(f"the journal {self.path} cannot be written: {error.strerror}") from error
        self._size = self._file.tell()

    def close(self) -> None:
        """Close the file; another run may take it."""
        self._file.close()

    def _read(self, count: int) -> bytes:
        return self._file.read(count) or b""


def told_step(
    plan: Mapping[str, Any], ids_BT: Tensor, stepped: Stepped, written: Sequence[Tensor]
) -> Message:
    """A step as it stands in the journal: who acted on what, the last states, and what stages wrote."""
    assert stepped.hidden_BH is not None
    tensors = {"ids": ids_BT, "hidden": stepped.hidden_BH}
    tensors |= {f"written{place}": one for place, one in enumerate(written)}
    return Message(plan, tensors)


def heard_step(
    message: Message, plan: Mapping[str, Any], ids_BT: Tensor, stages: int
) -> tuple[Tensor, list[Tensor]] | None:
    """The last states of a step and what stages wrote; None where something else stands there."""
    try:
        if dict(message.fields) != plan or not torch.equal(message.tensor("ids", 2), ids_BT.cpu()):
            return None
        return message.tensor("hidden", 2), [message.tensor(f"written{i}", 5) for i in range(stages)]
    except MessageError:
        return None
