"""Where workers come from: processes of this machine. Ray's are in `on_ray.py`."""

from __future__ import annotations

import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from weft.swarm.folder import Plan


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
        options = {"--dtype": plan.dtype, "--device": plan.device}
        options |= {"--memory": plan.memory} if plan.memory else {}
        options |= {"--threads": plan.threads} if plan.threads else {}
        self._command = [sys.executable, "-m", "weft.swarm.worker", plan.base]
        self._command += [str(part) for pair in options.items() for part in pair]
        self.log = str(log)
        log.unlink(missing_ok=True)
        self._start()

    def address(self) -> tuple[str, int] | None:
        """Where its worker listens; None while it starts."""
        return ("127.0.0.1", self._port) if self._port else None

    def dead(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def restart(self) -> None:
        """Kill the process and start another one."""
        self.close()
        self._start()

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._port = 0
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines, suppress(ValueError):
            port = int(lines.readline() or 0)
            if process is self._process:
                self._port = port
