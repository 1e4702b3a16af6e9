"""Ways on which messages travel: within a process, and over TCP."""

from __future__ import annotations

import socket
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from weft.errors import WorkerError
from weft.swarm.message import Message, decode, encode, receive
from weft.swarm.stage import Stage


class AbstractLink(ABC):
    """A way to one stage and back. What goes wrong on it is a WorkerError or a MessageError."""

    @abstractmethod
    def send(self, message: Message) -> None:
        """Send a call."""

    @abstractmethod
    def receive(self, seconds: float) -> Message:
        """The next answer, waited for so long."""

    @abstractmethod
    def close(self) -> None:
        """End the connection; the stage stays."""


class LocalLink(AbstractLink):
    """A stage in this process, reached through the same bytes as one elsewhere."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._answers: deque[bytearray] = deque()

    def send(self, message: Message) -> None:
        """Let the stage answer; the answer waits."""
        self._answers.append(encode(self.stage.answer(decode(encode(message)))))

    def receive(self, seconds: float) -> Message:
        """The next answer. Raises WorkerError where there is none, MessageError for a damaged one."""
        if not self._answers:
            raise WorkerError("no answer")
        return decode(self._answers.popleft())

    def close(self) -> None:
        """Forget the answers that nobody has read."""
        self._answers.clear()


class TcpLink(AbstractLink):
    """A connection to a worker at (host, port). Raises WorkerError where nobody answers there."""

    def __init__(self, address: tuple[str, int], *, seconds: float = 5.0) -> None:
        try:
            self._socket = socket.create_connection(address, timeout=seconds)
        except OSError as error:
            raise WorkerError(f"no worker at {address[0]}:{address[1]}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._seconds = seconds
        self._end = weakref.finalize(self, self._socket.close)  # also where nobody closes it

    def send(self, message: Message) -> None:
        """Send a call. Raises WorkerError when the connection has ended."""
        try:
            self._socket.settimeout(self._seconds)
            self._socket.sendall(encode(message))
        except OSError as error:
            raise WorkerError(f"the connection has ended: {error}") from error

    def receive(self, seconds: float) -> Message:
        """The next answer. Raises WorkerError after so many seconds without it, MessageError for damage."""
        return receive(until(self._socket, time.monotonic() + seconds))

    def close(self) -> None:
        """End the connection."""
        self._end()


def until(connection: socket.socket, deadline: float) -> Callable[[int], bytes]:
    """Read from a socket until a time of `time.monotonic`; what it gives raises WorkerError after that."""

    def read(count: int) -> bytes:
        try:
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
            return connection.recv(count)
        except TimeoutError as error:
            raise WorkerError("no answer in time") from error
        except OSError as error:
            raise WorkerError(f"the connection has ended: {error}") from error

    return read
