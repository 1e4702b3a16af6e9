"""A worker: one stage behind a port. A damaged message ends its connection, and is told in one line."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

import torch
from transformers import PreTrainedModel

from weft.errors import MessageError, WeftError, WorkerError
from weft.host.load import load_model
from weft.host.sites import ALL_LINEAR
from weft.swarm.link import until
from weft.swarm.message import encode, receive
from weft.swarm.part import Part
from weft.swarm.stage import Stage

_LOG = logging.getLogger("weft.swarm")
_CONNECTIONS = 16
"""Most at a time; a coordinator has one."""
_BODY_SECONDS = 60.0
"""How long the rest of a message may take once it has begun."""


def load_stage(
    name_or_path: str | os.PathLike[str],
    first: int,
    last: int,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    target_modules: str = ALL_LINEAR,
) -> Stage:
    """A stage of layers `first` to `last` (excluded) of a base; the others are let go once they were read.

    Raises what `Host.from_pretrained` and `Part` raise.
    """
    module, _ = load_model(name_or_path, dtype=dtype, device=device, revision=None, trust_remote_code=False)
    assert isinstance(module, PreTrainedModel)
    part = Part(module, first, last, target_modules=target_modules)
    part.trim()
    return Stage(part)


def listen(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A socket that waits for coordinators; port 0 takes a free one. Raises WorkerError for a taken one.

    Whoever reaches it can use the worker and read the states: keep to your own machines.
    """
    try:
        return socket.create_server(address)
    except OSError as error:
        raise WorkerError(f"cannot listen at {address[0]}:{address[1]}: {error}") from error


def serve(stage: Stage, listener: socket.socket) -> None:
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
        threading.Thread(target=_converse, args=(stage, connection, free), daemon=True).start()


def _converse(stage: Stage, connection: socket.socket, free: threading.BoundedSemaphore) -> None:
    with connection:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while _waits(connection):
                message = receive(until(connection, time.monotonic() + _BODY_SECONDS))
                connection.settimeout(_BODY_SECONDS)
                connection.sendall(encode(stage.answer(message)))
        except MessageError as error:
            _LOG.warning("a connection was ended: %s", error)
        except (WeftError, OSError):
            pass  # the coordinator has gone; it calls again if it wants to
        finally:
            free.release()


def _waits(connection: socket.socket) -> bool:
    """Wait for the next message; False when the other side has ended the connection."""
    connection.settimeout(None)
    return bool(connection.recv(1, socket.MSG_PEEK))
