"""Where workers come from: processes of this machine. Ray's are in `on_ray.py`."""

from __future__ import annotations

import logging
import multiprocessing
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import psutil

from weft.swarm.folder import Plan
from weft.swarm.worker import work

_LOG = logging.getLogger("weft.swarm")
_FORKS = multiprocessing.get_context("forkserver")
"""One process of these does the imports, and each worker is a fork of it, there in a moment."""


def preload() -> None:
    """Let the fork server of this process do the imports of workers; before the first of them."""
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
            if self._worker and not self._port and self._pipe.poll():
                self._port = int(self._pipe.recv_bytes(16))
        return ("127.0.0.1", self._port) if self._port else None

    def dead(self) -> bool:
        """Whether the process has ended, or never began."""
        return self._worker is None or not self._process.is_alive()

    def restart(self) -> None:
        """Kill the process and start another one."""
        self.close()
        self._start()

    def close(self) -> None:
        """Kill the process."""
        if self._worker is not None:
            with suppress(psutil.NoSuchProcess):  # `Process.kill` does nothing where the fork server is gone
                self._worker.kill()
            self._process.join()

    def _start(self) -> None:
        self._port = 0
        self._worker: psutil.Process | None = None
        try:
            self._pipe, theirs = _FORKS.Pipe(duplex=False)
            with theirs:
                self._process = _FORKS.Process(
                    target=work, args=(theirs, self.log), kwargs=self._options, daemon=True
                )
                self._process.start()
            self._worker = psutil.Process(self._process.pid)
        except (OSError, EOFError, psutil.NoSuchProcess) as error:  # no memory, say: it counts as ended
            _LOG.warning("a worker cannot be started: %s", str(error) or "its fork server ended")
