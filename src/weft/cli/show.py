"""`weft show`: what a folder, a model or a task is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.cli.shared.flags import Json
from weft.cli.shared.kinds import Kind, adapters_in, kind_of
from weft.cli.shared.model import open_host
from weft.cli.shared.screen import print_json, print_pairs
from weft.errors import ConfigError, MissingFileError
from weft.files import read_json, resolve
from weft.reading import read_json_lines

if TYPE_CHECKING:
    from weft.tasks import Task


_MANY = 8


def show(what: str, /, *, json: Json = False) -> None:
    """Say what something is: an adapter, a hypernetwork, a tree, a router, a base, a run or a task.

    For example:

        weft show weft/letters
        weft show out/
        weft show reverse+sort

    Args:
        what: A folder, a model that ships with Weft, or the name of a task of the letters world.
    """
    folder = resolve(what)
    facts = _letters_task(what) if folder is None else _FACTS[kind_of(folder)](folder)
    print_json(_flat(facts)) if json else print_pairs(_flat(_brief(facts)))


def _adapter(folder: Path) -> dict[str, Any]:
    from weft.adapters import load, norm
    from weft.adapters.card import base_model

    adapter = load(folder)
    facts = {
        "kind": "adapter",
        "name": adapter.name,
        "base": adapter.base or base_model(adapter) or "not named",
        "rank": adapter.rank,
        "sites": len(adapter.sites),
        "modules": sorted({site.module for site in adapter.sites}),
        "parameters": sum(f.a_RI.numel() + f.b_OR.numel() for f in adapter.factors.values()),
        "norm": norm(adapter),
    }
    # What a stranger wrote into the card stands behind what is known.
    return {**facts, **{key: value for key, value in adapter.provenance.items() if key not in facts}}


def _hypernetwork(folder: Path) -> dict[str, Any]:
    from weft.hyper.hypernetwork import SavedHyperNetwork
    from weft.saved import describe

    saved, _ = describe(folder, SavedHyperNetwork)
    return {
        "kind": "hypernetwork",
        "name": saved.name,
        "base": saved.base,
        **_sites(saved.sites),
        **saved.model_dump(mode="json", include={"encoder", "network", "provenance"}),
    }


def _tree(folder: Path) -> dict[str, Any]:
    from weft.route.tree_folder import SavedTree
    from weft.saved import describe

    saved, _ = describe(folder, SavedTree)
    return {
        **saved.model_dump(mode="json", include={"kind", "base", "scope", "layers", "leaves", "shared"}),
        **_sites(saved.sites),
        **saved.provenance,
    }


def _sites(saved: Sequence[tuple[str, int, str, int, int]]) -> dict[str, Any]:
    """How many matrices, and of which kinds, as a folder keeps them."""
    return {"sites": len(saved), "modules": sorted({module for _, _, module, _, _ in saved})}


def _router(folder: Path) -> dict[str, Any]:
    from weft.route.router_folder import describe_router

    router, _ = describe_router(folder)
    return {"kind": router.kind, "base": router.base, "adapters": list(router.names), **router.provenance}


def _shift(folder: Path) -> dict[str, Any]:
    from weft.hyper.shifter import SavedShift
    from weft.saved import describe

    saved, _ = describe(folder, SavedShift)
    return {
        "kind": "shift",
        "mode": saved.network.mode,
        "base": saved.base,
        "control token": saved.control,
        "adapters": list(saved.library),
        **saved.provenance,
    }


def _context(folder: Path) -> dict[str, Any]:
    from weft.hyper.context import SavedContext
    from weft.saved import describe

    saved, _ = describe(folder, SavedContext)
    return {
        "kind": "context network",
        "name": saved.name,
        "base": saved.base,
        **_sites(saved.sites),
        **saved.model_dump(mode="json", include={"network", "provenance"}),
    }


def _mix(folder: Path) -> dict[str, Any]:
    from weft.engine.mixer import SavedMix
    from weft.saved import describe

    saved, _ = describe(folder, SavedMix)
    return {
        "kind": "mix",
        "base": saved.base,
        "sources": list(saved.sources),
        "tokens": list(saved.tokens),
        "sites": len(saved.sites),
        **saved.provenance,
    }


def _base(folder: Path) -> dict[str, Any]:
    host = open_host(folder)
    made_by = read_json(folder / "provenance.json") if (folder / "provenance.json").is_file() else {}
    return {
        "kind": "base",
        "architecture": type(host.module).__name__,
        "fingerprint": host.fingerprint,
        "parameters": sum(parameter.numel() for parameter in host.module.parameters()),
        "window": host.window,
        "sites": len(host.sites),
        "modules": sorted({site.module for site in host.sites}),
        **made_by,
    }


def _run(folder: Path) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for _, line in read_json_lines(folder / "metrics.jsonl"):
        last |= line
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    results = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in checkpoints and not path.name.startswith(".")
    )
    return {
        "kind": "run",
        "recipe": str(folder / "config.yaml"),
        **last,
        "checkpoints": checkpoints,
        "holds": results,
    }


def _task_folder(folder: Path) -> dict[str, Any]:
    from weft.tasks import load_task

    return _task(load_task(folder))


def _letters_task(name: str) -> dict[str, Any]:
    from weft.tasks.letters.world import World

    try:
        task = World().find(name)
    except ConfigError as error:
        raise MissingFileError(f"{name} is no folder, and as a task: {error}") from error
    return _task(task)


def _task(task: "Task") -> dict[str, Any]:
    rows = task.train or task.test
    return {
        "kind": "task",
        "name": task.name,
        "category": task.category,
        "descriptions": list(task.descriptions),
        "unseen descriptions": list(task.unseen_descriptions),
        "rows": f"{len(task.train)} train, {len(task.test)} test",
        "for example": [f"{row.prompt} -> {row.completion}" for row in rows[:5]],
    }


def _other(folder: Path) -> dict[str, Any]:
    found = adapters_in(folder)
    if not found:
        raise MissingFileError(f"{folder} holds no adapter, hypernetwork, base, run or task")
    return {"kind": f"{len(found)} adapters", "names": [path.name for path in found]}


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return flat


def _brief(values: dict[str, Any]) -> dict[str, Any]:
    """The same for people: a number for each of many modules becomes their range."""
    brief: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            numbers = [part for part in value.values() if isinstance(part, int | float)]
            many = len(value) > _MANY and len(numbers) == len(value)
            summary = f"{len(value)} numbers from {min(numbers):.3g} to {max(numbers):.3g}" if many else ""
            brief[key] = summary or _brief(value)
        else:
            brief[key] = value
    return brief


_FACTS: dict[Kind, Callable[[Path], dict[str, Any]]] = {
    "adapter": _adapter,
    "hypernetwork": _hypernetwork,
    "tree": _tree,
    "router": _router,
    "shift": _shift,
    "context": _context,
    "mix": _mix,
    "base": _base,
    "run": _run,
    "task": _task_folder,
    "folder": _other,
}
