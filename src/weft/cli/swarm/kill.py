"""`weft swarm kill`: end a worker without a goodbye, to see that nothing is lost."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from weft.errors import ConfigError


def kill(*, name: Annotated[str, Parameter(name=("--name", "-n"))], worker: int) -> None:
    """Kill a worker as the system would (SIGKILL), and say what it was; a spare takes its place.

    For example:

        weft swarm kill --name S --worker 1

    Args:
        name: Name of the swarm.
        worker: Its number in "weft swarm status".
    """
    from weft.swarm.folder import SwarmFolder, end_worker

    folder = SwarmFolder(name)
    _ = folder.plan  # an unknown name is told as such
    state = folder.state
    workers = state.get("workers", [])
    if folder.supervisor is None:
        raise ConfigError(f"swarm {name} is down; there is nobody to kill")
    if not 0 <= worker < len(workers):
        raise ConfigError(f"swarm {name} has workers 0 to {len(workers) - 1}, there is no number {worker}")
    address = workers[worker]["address"]
    if address is None:
        raise ConfigError(f"worker {worker} of swarm {name} is starting; try again when it is ready")
    folder.tell("killed", worker=worker)
    end_worker((address[0], address[1]))
    print(f"worker {worker} of swarm {name} was killed: {_was(workers[worker], state)}")


def _was(worker: dict[str, Any], state: dict[str, Any]) -> str:
    """What a worker was; of one without layers, who has some."""
    stages = state["stages"]
    if worker["stage"] is not None:
        stage = stages[worker["stage"]]
        return f"it held layers {stage['first']}-{stage['last'] - 1}"
    holders = [str(one["worker"]) for one in state["workers"] if one["stage"] is not None]
    who = f"workers {', '.join(holders)} do" if holders else "nobody does yet"
    return f"a {worker['state']} one that held no layers; {who}"
