"""Where workers come from: processes of this machine. Ray's are in `on_ray.py`."""

from __future__ import annotations

import multiprocessing
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from weft.swarm.folder import Plan
from weft.swarm.worker import work

_FORKS = multiprocessing.get_context("forkserver")
"""One process of these does the imports, and each worker is a fork of it, there in a moment."""
_FORKS.set_forkserver_preload([work.__module__])


class AbstractSlot(ABC):
    """A place that always has a worker, or will have one again."""

    log: str
    """Where its worker says what goes wrong."""

    @abstractmethod
    def address(self) -> tuple[str, int] | None:
        """Where its worker listens; None while it starts."""

    @abstractmethod
    def dead(self) -> bool:
        """Whether its worker has ended and another one has not been asked for."""

    @abstractmethod
    def restart(self) -> None:
        """Kill what is there, if it lives, and have a worker started anew."""

    @abstractmethod
    def close(self) -> None:
        """End the worker for good."""


class ProcessSlot(AbstractSlot):
    """A worker process of this machine, which writes its errors to a file of its own."""

    def __init__(self, plan: Plan, log: Path) -> None:
        self.log = str(log)
        self._options = plan.model_dump(include={"base", "dtype", "device", "memory", "threads"})
        log.unlink(missing_ok=True)
        self._start()

    def address(self) -> tuple[str, int] | None:
        """Where its worker listens; None while it starts."""
        with suppress(EOFError):  # it ended before it listened
            if not self._port and self._told.poll():
                self._port = self._told.recv()
        return ("127.0.0.1", self._port) if self._port else None

    def dead(self) -> bool:
        """Whether the process has ended."""
        return not self._process.is_alive()

    def restart(self) -> None:
        """Kill the process and start another one."""
        self.close()
        self._start()

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._port = 0
        self._told, theirs = _FORKS.Pipe(duplex=False)
        with theirs:
            self._process = _FORKS.Process(
                target=work, args=(theirs, self.log), kwargs=self._options, daemon=True
            )
            self._process.start()
