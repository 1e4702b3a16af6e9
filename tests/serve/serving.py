"""A server in a thread of this process, and one with something of every kind of name."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI

from weft.serve import Scheduler, Shelf


class Served(NamedTuple):
    url: str
    scheduler: Scheduler
    shelf: Shelf


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address of a server that ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
