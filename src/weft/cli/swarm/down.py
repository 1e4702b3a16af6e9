"""`weft swarm down`: end the workers and the one who watches over them."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from weft.errors import WorkerError

_SECONDS = 60
_KILLED_SECONDS = 10


def down(*, name: Annotated[str, Parameter(name=("--name", "-n"))]) -> None:
    """End a swarm; what is written over it fails.

    For example:

        weft swarm down --name S

    Args:
        name: Name of the swarm.
    """
    import psutil

    from weft.swarm.folder import SwarmFolder

    folder = SwarmFolder(name)
    _ = folder.plan  # an unknown name is told as such
    supervisor = folder.supervisor
    if supervisor is None:
        print(f"swarm {name} is down")
        return
    try:
        supervisor.terminate()
        try:
            supervisor.wait(_SECONDS)
        except psutil.TimeoutExpired:  # it was stopped, say; its workers end with it
            supervisor.kill()
            supervisor.wait(_KILLED_SECONDS)
    except psutil.NoSuchProcess:
        pass  # somebody else has ended it
    except psutil.Error:
        raise WorkerError(f"the supervisor of swarm {name}, process {supervisor.pid}, does not end") from None
    print(f"swarm {name} is down")
