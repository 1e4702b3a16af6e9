"""A server in a thread of this process, and one with something of every kind of name."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI

from weft.serve import Scheduler, Shelf, server_config


class Served(NamedTuple):
    url: str
    scheduler: Scheduler
    shelf: Shelf


@contextmanager
def serving(app: FastAPI, seconds: float = 2.0) -> Iterator[str]:
    """The address of a server that ends with the block; headers have so many seconds to come."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app, seconds=seconds))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
