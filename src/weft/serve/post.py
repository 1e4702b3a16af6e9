"""From the thread of the tensors to the event loop: all that one step has to tell in one wake-up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

Call = Callable[[], None]


class Post:
    """Calls for an event loop, from any thread, in their order.

    Waking the loop takes a system call, and the other thread may lose its turn in it: so a loop that was
    woken and has not come yet is not woken again.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.AbstractEventLoop, list[Call]] = {}
        self._lock = threading.Lock()

    def to(self, loop: asyncio.AbstractEventLoop) -> Callable[[Call], None]:
        """What lets a loop make a call; nothing once it has been closed."""

        def send(call: Call) -> None:
            with self._lock:
                waiting = self._waiting.setdefault(loop, [])
                waiting.append(call)
                if len(waiting) > 1:
                    return
            try:
                loop.call_soon_threadsafe(self._deliver, loop)
            except RuntimeError:  # it has been closed
                with self._lock:
                    self._waiting.pop(loop, None)

        return send

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            calls = self._waiting.pop(loop)
        for call in calls:
            call()
