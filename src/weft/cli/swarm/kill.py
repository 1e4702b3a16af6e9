"""`weft swarm kill`: end a worker without a goodbye, to see that nothing is lost."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from weft.errors import ConfigError


def kill(*, name: Annotated[str, Parameter(name=("--name", "-n"))], worker: int) -> None:
    """Kill a worker as the system would (SIGKILL); a spare takes its place.

    For example:

        weft swarm kill --name S --worker 1

    Args:
        name: Name of the swarm.
        worker: Its number in "weft swarm status".
    """
    from weft.swarm.folder import SwarmFolder, end_worker

    folder = SwarmFolder(name)
    _ = folder.plan  # an unknown name is told as such
    workers = folder.state.get("workers", [])
    if folder.supervisor is None:
        raise ConfigError(f"swarm {name} is down; there is nobody to kill")
    if not 0 <= worker < len(workers):
        raise ConfigError(f"swarm {name} has workers 0 to {len(workers) - 1}, there is no number {worker}")
    address = workers[worker]["address"]
    if address is None:
        raise ConfigError(f"worker {worker} of swarm {name} is starting; try again when it is ready")
    folder.tell("killed", worker=worker)
    end_worker((address[0], address[1]))
