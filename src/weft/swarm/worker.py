"""A worker: a place for one stage behind a port. A damaged message ends its connection, in one line.

It begins without layers: it says how fast it is, is told which layers to take, and answers for them from then
on. `work` is the process of one; it tells its port.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from weft.errors import MessageError, WeftError, WorkerError
from weft.plain import reason_of
from weft.swarm.link import until
from weft.swarm.load import load_part
from weft.swarm.message import Message, encode, receive
from weft.swarm.speed import measure
from weft.swarm.stage import Stage

_LOG = logging.getLogger("weft.swarm")
_CONNECTIONS = 64
"""Most at a time; a coordinator has one, and who watches over the worker another."""
_FIRST_SECONDS = 10.0
"""How long a connection may be silent before its first message; later it may be so for good."""
_BODY_SECONDS = 60.0
"""How long the rest of a message may take once it has begun."""


Answer = Callable[[Message], Message]
"""What stands behind a port; called from any thread."""


class Worker:
    """Takes layers of one base, as many as its memory allows, and answers for them."""

    def __init__(
        self, base: str, *, dtype: str = "auto", device: str = "cpu", memory: int | None = None
    ) -> None:
        self.base, self.dtype, self.device, self.memory = base, dtype, device, memory
        self.instance = secrets.token_hex(8)
        self.stage: Stage | None = None
        self._loading = threading.Lock()

    def answer(self, call: Message) -> Message:
        """Answer a call: `ping`, `measure`, `load` and `die` here, all others by the stage."""
        kind = call.fields.get("kind")
        if kind not in ("ping", "measure", "load", "die") and self.stage is not None:
            return self.stage.answer(call)
        try:
            match kind:
                case "ping":
                    told = self._told()
                case "measure":
                    told = measure(self.base, self.dtype, self.device)
                case "load":
                    told = self._load(call.whole("first"), call.whole("last"))
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                    told = {}
                case _:
                    told = {"error": "Failed", "text": "this worker has no layers yet"}
        except WeftError as error:
            told = {"error": type(error).__name__, "text": reason_of(error)}
        except Exception as error:  # a base too large for the machine, say: told, and the worker lives on
            _LOG.exception("call %r failed", kind)
            told = {"error": "Failed", "text": f"{type(error).__name__}: {reason_of(error)}"}
        serial = call.fields.get("serial")
        return Message({**told, "serial": serial if type(serial) is int else -1})

    def _load(self, first: int, last: int) -> dict[str, Any]:
        """Take these layers; the answer says whose base they are, and the hash of their weights."""
        with self._loading:
            if self.stage is None or (self.stage.part.first, self.stage.part.last) != (first, last):
                part = load_part(
                    self.base, first, last, dtype=self.dtype, device=self.device, memory=self.memory
                )
                _ = part.weights  # hashed now, so that the first greeting need not wait for it
                self.stage = Stage(part)
            part = self.stage.part
            return {**self._told(), "base": part.base, "hash": part.weights}

    def _told(self) -> dict[str, Any]:
        stage = self.stage
        told = {"instance": self.instance, "pid": os.getpid(), "rss": psutil.Process().memory_info().rss}
        if stage is None:
            return told
        mean = {"weights": stage.part.bytes, "sessions": stage.sessions, "seconds": stage.seconds}
        return {**told, **mean, "stage": [stage.part.first, stage.part.last]}


def load_stage(base: str | os.PathLike[str], first: int, last: int, **options: Any) -> Stage:
    """A stage of layers `first` to `last` (excluded) of a base. Raises what `load_part` raises."""
    return Stage(load_part(base, first, last, **options))


def listen(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A socket that waits for coordinators; port 0 takes a free one. Raises WorkerError for a taken one.

    Whoever reaches it can use the worker and read the states: keep to your own machines.
    """
    try:
        return socket.create_server(address)
    except OSError as error:
        raise WorkerError(f"cannot listen at {address[0]}:{address[1]}: {error}") from error


def serve(answer: Answer, listener: socket.socket) -> None:
    """Answer calls until the listener is closed."""
    free = threading.BoundedSemaphore(_CONNECTIONS)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if not free.acquire(blocking=False):
            _LOG.warning("more than %d connections; one was turned away", _CONNECTIONS)
            connection.close()
            continue
        threading.Thread(target=_converse, args=(answer, connection, free), daemon=True).start()


def _converse(answer: Answer, connection: socket.socket, free: threading.BoundedSemaphore) -> None:
    with connection:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # its machine may be gone
            seconds: float | None = _FIRST_SECONDS
            while _waits(connection, seconds):
                seconds = None
                message = receive(until(connection, time.monotonic() + _BODY_SECONDS))
                connection.settimeout(_BODY_SECONDS)
                connection.sendall(encode(answer(message)))
        except MessageError as error:
            _LOG.warning("a connection was ended: %s", error)
        except (WeftError, OSError):
            pass  # the coordinator has gone; it calls again if it wants to
        finally:
            free.release()


def _waits(connection: socket.socket, seconds: float | None) -> bool:
    """Wait for the next message, so long at most; False when the other side has ended the connection."""
    connection.settimeout(seconds)
    return bool(connection.recv(1, socket.MSG_PEEK))


def work(
    pipe: Connection,
    log: str | os.PathLike[str],
    *,
    base: str,
    dtype: str = "auto",
    device: str = "cpu",
    memory: int | None = None,
    threads: int | None = None,
) -> None:
    """Listen, send the port, and serve until the one who started this process is gone; errors go to a log."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if threads:
        torch.set_num_threads(threads)
    worker = Worker(base, dtype=dtype, device=device, memory=memory)
    with listen() as listener:
        pipe.send_bytes(b"%d" % listener.getsockname()[1])
        pipe.close()
        threading.Thread(target=_end_with_parent, daemon=True).start()
        serve(worker.answer, listener)


def _end_with_parent() -> None:
    """No worker is left behind by a supervisor that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
