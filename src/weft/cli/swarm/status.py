"""`weft swarm status`: who holds which layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weft.cli.shared.flags import Json
from weft.cli.shared.screen import print_json, print_rows
from weft.errors import ConfigError
from weft.plain import plain

if TYPE_CHECKING:
    from weft.swarm.folder import SwarmFolder

_MEGA = 1 << 20


def status(
    *, name: Annotated[str | None, Parameter(name=("--name", "-n"))] = None, json: Json = False
) -> None:
    """Show the workers of a swarm: stages, layers, memory, latency, sessions.

    Without a name the swarms are listed. For example:

        weft swarm status --name S

    Args:
        name: Name of the swarm.
    """
    from weft.swarm.folder import SwarmFolder, names

    if name is not None:
        folder = SwarmFolder(name)
        _ = folder.plan  # an unknown name is told as such
        print_status(folder, json=json)
        return
    rows = [_summary(SwarmFolder(one)) for one in names()]
    print_json(rows) if json else print_rows(rows)


def print_status(folder: SwarmFolder, *, json: bool) -> None:
    """The workers of a swarm as a table, or as JSON."""
    state = folder.state
    stages = state.get("stages", [])
    rows = [_row(worker, stages) for worker in state.get("workers", [])]
    if json:
        whole = {"swarm": folder.name, "base": folder.plan.base, "state": _state(folder)}
        print_json({**whole, "launcher": folder.plan.launcher, "workers": rows})
        return
    print_rows(rows)
    for worker in state.get("workers", []):
        if worker.get("refusal") is not None:
            print(f"worker {worker['worker']} is refused: {plain(worker['refusal'])}; see {worker['log']}")
    if _state(folder) != "up":
        why = f": {plain(state['error'])}" if state.get("error") else ""
        print(f"swarm {folder.name} is {_state(folder)}{why}")


def _summary(folder: SwarmFolder) -> dict[str, object]:
    try:
        state, plan = _state(folder), folder.plan
    except ConfigError:  # its own status says more; the others are listed all the same
        return {"swarm": folder.name, "base": None, "state": "damaged", "workers": None}
    return {"swarm": folder.name, "base": plan.base, "state": state, "workers": plan.workers}


def _state(folder: SwarmFolder) -> str:
    if folder.supervisor is None:
        return "down"
    return "up" if folder.state.get("ready") else "not ready"


def _row(worker: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, object]:
    stage = worker["stage"]
    layers = "" if stage is None else f"{stages[stage]['first']}-{stages[stage]['last'] - 1}"
    address = worker["address"]
    return {
        "worker": worker["worker"],
        "state": worker["state"],
        "stage": stage,
        "layers": layers,
        "weights MB": None if worker["weights"] is None else round(worker["weights"] / _MEGA, 1),
        "memory MB": None if worker["rss"] is None else round(worker["rss"] / _MEGA),
        "step ms": None if worker["seconds"] is None else round(1000 * worker["seconds"], 2),
        "sessions": worker["sessions"],
        "restarts": worker["restarts"],
        "pid": worker["pid"],
        "address": None if address is None else f"{address[0]}:{address[1]}",
    }
