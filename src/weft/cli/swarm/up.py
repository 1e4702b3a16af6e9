"""`weft swarm up`: start the workers of a swarm and the one who watches over them."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from weft.cli.shared.flags import Json
from weft.cli.shared.model import Dtype
from weft.cli.swarm.status import print_status
from weft.errors import ConfigError, MissingExtraError, WorkerError

if TYPE_CHECKING:
    from weft.swarm.folder import SwarmFolder

Name = Annotated[str, Parameter(name=("--name", "-n"))]
_LOCK = 9
"""The descriptor under which the supervisor finds its lock."""
_END_SECONDS = 20.0
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def up(
    *,
    base: str,
    name: Name,
    workers: int = 3,
    spares: int = 1,
    memory: str | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
    threads: int | None = None,
    launcher: Literal["auto", "ray", "processes"] = "auto",
    address: str | None = None,
    timeout: float = 600.0,
    json: Json = False,
) -> None:
    """Start a swarm, and return when every stage is ready.

    The workers are measured, and the layers divided so that the slowest stage
    is as fast as memory allows. For example:

        weft swarm up --base weft/letters --workers 3 --name S
        weft swarm up --base weft/smollm2 --workers 3 --memory 120M --name S
        weft swarm up --base Qwen/Qwen3-8B --workers 4 --address 10.0.0.1:6379 --name big

    Args:
        base: Folder, hub id or embedded name; on a cluster the same on every machine.
        name: Name of the swarm.
        workers: How many stages the layers are divided into.
        spares: Workers without layers that take the place of one that dies.
        memory: Most bytes of weights on one worker, such as 800M or 12G.
        dtype: Number type of the base; auto is the one that it was saved in.
        device: Where every worker runs its layers.
        threads: CPU threads of a worker; torch decides unless given.
        launcher: Who starts the workers; auto is Ray where it is installed.
        address: Of a Ray cluster that runs; Ray is started on this machine unless given.
        timeout: Most seconds to wait; then the swarm is ended again.
    """
    from weft.config import parse_config
    from weft.swarm.folder import FRESH, LOG, PLAN, STATE, Plan, SwarmFolder

    has_ray = find_spec("ray") is not None
    if (launcher == "ray" or address is not None) and not has_ray:
        raise MissingExtraError("a Ray cluster needs the extra swarm: pip install 'weft[swarm]'")
    if launcher == "processes" and address is not None:
        raise ConfigError("--address is that of a Ray cluster; leave --launcher processes out")
    who = launcher if launcher != "auto" else "ray" if has_ray else "processes"
    folder = SwarmFolder(name)
    asked = {
        "base": base,
        "workers": workers,
        "spares": spares,
        "dtype": dtype,
        "device": device,
        "memory": _bytes(memory),
        "threads": threads,
        "launcher": who,
        "address": address,
    }
    plan = parse_config(Plan, asked, "weft swarm up")
    held = folder.lock()
    try:
        for file in FRESH:
            (folder.path / file).unlink(missing_ok=True)
        folder.write(PLAN, plan.model_dump(mode="json"))
        pid = _spawn(name, folder.path / LOG, held)
    finally:
        os.close(held)  # the supervisor has it
    try:
        folder.write(STATE, {"supervisor": pid})  # it may be ended before it writes that itself
        _wait(folder, pid, timeout)
    except BaseException:
        _end(pid)
        raise
    print_status(folder, json=json)


def _wait(folder: SwarmFolder, pid: int, seconds: float) -> None:
    """Wait until every stage has its worker, and say on standard error how far it is."""
    from weft.swarm.folder import LOG

    end, told = time.monotonic() + seconds, ""
    while not folder.state.get("ready"):
        ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        state = folder.state
        if state.get("error"):
            raise WorkerError(state["error"])
        if ended:
            raise WorkerError(f"the supervisor of swarm {folder.name} ended; see {folder.path / LOG}")
        now = _progress(state)
        if now != told:
            print(f"weft: {now}", file=sys.stderr)
            told = now
        if time.monotonic() > end:
            logs = [one["log"] for one in state.get("workers", []) if one["state"] != "ready"]
            where = ", ".join(logs[:3]) or folder.path / LOG
            raise WorkerError(f"swarm {folder.name} is not ready after {seconds:g} s, {now}; see {where}")
        time.sleep(0.05)


def _progress(state: dict[str, Any]) -> str:
    workers, stages = state.get("workers", []), state.get("stages", [])
    if not workers:
        return "the supervisor starts"
    there = sum(one["state"] != "starting" for one in workers)
    text = f"{there} of {len(workers)} workers have started"
    if not stages:
        return text
    return f"{text}, {sum(bool(stage['address']) for stage in stages)} of {len(stages)} stages are ready"


def _spawn(name: str, log: Path, lock: int) -> int:
    """Start the supervisor in a session of its own, with the lock; it outlives this process."""
    with log.open("wb") as file, open(os.devnull, "rb") as nothing:
        moves = [(nothing.fileno(), 0), (file.fileno(), 1), (file.fileno(), 2), (lock, _LOCK)]
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "weft.swarm.supervisor", name, str(_LOCK)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, here, there) for here, there in moves],
            setsid=True,
        )


def _end(pid: int) -> None:
    """End the supervisor that was started, which ends its workers; they end too where it has to be killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, number)
            end = time.monotonic() + _END_SECONDS
            while os.waitpid(pid, os.WNOHANG)[0] != pid:
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
            else:
                return


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"memory {text} is no size; write 800M or 12G")
    return int(float(found[1]) * _SIZES[found[2].upper()])
