"""What a swarm keeps on disk: its plan, who runs which layers, and what happened; and how it is reached.

The supervisor writes, everybody else reads: `weft swarm status`, and coordinators that connect to a stage.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field

from weft.config import Config, parse_config
from weft.errors import (
    ConfigError,
    MessageError,
    MissingFileError,
    SaveError,
    UnknownNameError,
    WorkerError,
)
from weft.files import is_name, nearest, read_json, replace_file, to_json
from weft.reading import read_text
from weft.registry import cache_folder
from weft.swarm.link import TcpLink
from weft.swarm.message import Message

PLAN, STATE, EVENTS, LOG = "plan.json", "state.json", "events.jsonl", "log.txt"
_OLD = "events-old.jsonl"
FRESH = (STATE, EVENTS, _OLD, LOG)
"""What a new start leaves nothing of."""
_EVENT_BYTES = 32 << 20
"""What happened is begun anew above this size; what was there before is kept once."""


class Plan(Config):
    """What `weft swarm up` asks for."""

    base: str
    """Embedded name, folder or Hub id, the same on every machine."""
    workers: int = Field(ge=1, le=256)
    """Stages; each has one worker."""
    spares: int = Field(default=1, ge=0, le=64)
    """Workers without layers, ready to take the place of one that dies."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "cpu"
    memory: int | None = Field(default=None, ge=1)
    """Most bytes of weights on one worker; None takes what comes."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of a worker; torch decides unless given."""
    launcher: Literal["processes", "ray"] = "processes"
    address: str | None = None
    """Of a Ray cluster; None starts Ray on this machine."""


class SwarmFolder:
    """The folder of one swarm by name. Raises ConfigError for what is no name."""

    def __init__(self, name: str) -> None:
        if not is_name(name):
            raise ConfigError(f"{name!r:.80} cannot name a swarm; use letters, digits and . _ - +")
        self.name = name
        self.path = cache_folder() / "swarm" / name

    @property
    def plan(self) -> Plan:
        """What was asked for. Raises UnknownNameError where there is no such swarm."""
        try:
            return parse_config(Plan, read_json(self.path / PLAN), str(self.path / PLAN))
        except MissingFileError:
            known = names()
            told = f"there are {', '.join(known)}" if known else "start one: weft swarm up"
            raise UnknownNameError(f"no swarm {self.name!r}{nearest(self.name, known)}; {told}") from None

    @property
    def state(self) -> dict[str, Any]:
        """Who runs what, as it was written last; empty before that. Raises ConfigError for a damaged file."""
        try:
            state = read_json(self.path / STATE)
        except MissingFileError:
            return {}
        pid = state.get("supervisor") if isinstance(state, dict) else None
        if type(pid) is not int or pid < 1:
            raise ConfigError(f"{self.path / STATE} is damaged; start the swarm again: weft swarm up")
        return state

    @property
    def supervisor(self) -> psutil.Process | None:
        """The process that watches over the workers, where it runs."""
        pid = self.state.get("supervisor")
        with suppress(psutil.Error):
            if pid is not None:
                process = psutil.Process(pid)
                if process.is_running() and {"weft.swarm.supervisor", self.name} <= {*process.cmdline()}:
                    return process
        return None

    def write(self, file: str, value: Any) -> None:
        """Write one of its files, whole or not at all. Raises SaveError."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / file, to_json(value))

    def lock(self) -> int:
        """A descriptor that makes its holders the only ones to run this swarm, until all have closed it.

        Raises ConfigError where somebody has it, SaveError where the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SaveError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(held)
            raise ConfigError(
                f"swarm {self.name} is up already, or starts; weft swarm down --name {self.name} ends it"
            ) from error
        return held

    def log(self, worker: int) -> Path:
        """Where a worker process writes what goes wrong."""
        return self.path / f"worker-{worker}.log"

    def tell(self, event: str, **values: Any) -> None:
        """Add a line to what happened. Where the disk refuses it is left out: a picture is worth no token."""
        line = json.dumps({"time": time.time(), "event": event, **values}) + "\n"
        with suppress(OSError):
            with (self.path / EVENTS).open("ab", buffering=0) as file:
                file.write(line.encode())
                size = file.tell()
            if size > _EVENT_BYTES:
                os.replace(self.path / EVENTS, self.path / _OLD)

    def events(self) -> Iterator[dict[str, Any]]:
        """What happened, in its order."""
        for file in (self.path / _OLD, self.path / EVENTS):
            if not file.is_file():
                continue
            for line in read_text(file).splitlines():
                with suppress(ValueError):  # the last line may be half written
                    yield json.loads(line)

    def connect(self, stage: int, *, seconds: float = 120.0) -> Callable[[int], TcpLink]:
        """A way to whoever holds a stage; it waits for a worker that is being replaced.

        What it returns raises WorkerError when none came in time, or nobody watches over the swarm.
        """

        def link(failed: int) -> TcpLink:
            end = time.monotonic() + seconds
            reason: Exception = WorkerError(f"stage {stage} of swarm {self.name} has no worker")
            while time.monotonic() < end:
                state = self.state
                stages = state.get("stages", [])
                if stage < len(stages) and stages[stage]["address"] is not None:
                    host, port = stages[stage]["address"]
                    try:
                        return TcpLink((host, port))
                    except WorkerError as error:
                        reason = error
                if self.supervisor is None:
                    raise WorkerError(f"swarm {self.name} is down; start it: weft swarm up")
                if state.get("error"):
                    raise WorkerError(state["error"])
                time.sleep(0.02)
            raise WorkerError(str(reason))

        return link


def names() -> list[str]:
    """The swarms that have a folder."""
    found = (path.parent.name for path in (cache_folder() / "swarm").glob(f"*/{PLAN}"))
    return sorted(name for name in found if is_name(name))


def ask(address: tuple[str, int], kind: str, *, seconds: float = 5.0, **fields: Any) -> Message:
    """One call to a worker over a connection of its own.

    Raises WorkerError where none answers in time, MessageError for damage, ConfigError for what the worker
    refuses.
    """
    link = TcpLink(address, seconds=min(seconds, 5.0))
    try:
        link.send(Message({"kind": kind, "serial": 0, **fields}))
        answer = link.receive(seconds)
    finally:
        link.close()
    if "error" in answer.fields:
        raise ConfigError(f"worker {address[0]}:{address[1]}: {answer.text('text')}")
    return answer


def end_worker(address: tuple[str, int]) -> None:
    """Let a worker kill itself, as the system would: no goodbye."""
    with suppress(WorkerError, MessageError):
        ask(address, "die", seconds=2.0)
