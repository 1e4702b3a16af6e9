"""Connections that are neither slow to ask nor slow to listen.

uvicorn times an idle connection after its first answer, and nothing else: headers that come a byte at a
time (slowloris), or an answer that nobody reads, would keep their connection for ever.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_HELD = 1 << 18
"""Bytes of an answer that the system holds for its reader."""


class Connection(asyncio.Protocol):
    """uvicorn's HTTP/1.1 within bounds of time; of headers that come in pieces h11 takes some 64 KB.

    It is closed where the headers of a request take more than `seconds`, and where in as long nothing of a
    full buffer was read.
    """

    def __init__(self, *, seconds: float, **given: Any) -> None:
        self._http = H11Protocol(**given)
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._asks: asyncio.TimerHandle | None = None
        self._reads: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Time the first headers."""
        self._transport = cast("asyncio.Transport", transport)
        held = transport.get_extra_info("socket")
        if held is not None:  # the less the system holds, the sooner a reader is seen to read
            held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _HELD)
        self._http.connection_made(self._transport)
        self._time_headers()

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        self._http.data_received(data)
        self._time_headers()

    def eof_received(self) -> None:
        """Nothing more will come."""
        self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Time nothing more."""
        for timer in (self._asks, self._reads):
            if timer is not None:
                timer.cancel()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        self._http.pause_writing()
        self._time_reader()

    def resume_writing(self) -> None:
        """The client has read on."""
        if self._reads is not None:
            self._reads.cancel()
        self._http.resume_writing()

    @property
    def _waits(self) -> bool:
        """Whether no request is being answered: what comes are headers."""
        return self._http.cycle is None or self._http.cycle.response_complete

    def _time_headers(self) -> None:
        if not self._waits and self._asks is not None:
            self._asks.cancel()
            self._asks = None
        elif self._waits and self._asks is None:
            self._asks = self._loop.call_later(self._seconds, self._asks_too_slowly)

    def _asks_too_slowly(self) -> None:
        self._asks = None
        if self._waits and not self._transport.is_closing():
            begun, _ = self._http.conn.trailing_data
            if begun:
                self._transport.write(_SLOW)
            self._transport.close()

    def _time_reader(self) -> None:
        unread = self._transport.get_write_buffer_size()
        self._reads = self._loop.call_later(self._seconds, self._check_reader, unread)

    def _check_reader(self, before: int) -> None:
        if self._transport.get_write_buffer_size() < before:
            self._time_reader()
        else:
            self._transport.abort()


def server_config(app: FastAPI, *, seconds: float = 30.0) -> uvicorn.Config:
    """How uvicorn serves an application here: HTTP/1.1 alone, over connections that are timed."""
    return uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(Connection, seconds=seconds)),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=60,
        server_header=False,
    )
