"""`weft list`: what there is to use."""

import os
from pathlib import Path
from typing import Any, Literal, get_args

from weft.cli.shared.checkout import checkout_folder
from weft.cli.shared.flags import Flag, Json
from weft.cli.shared.kinds import adapters_in, kind_of, size_of
from weft.cli.shared.screen import print_json, print_rows
from weft.errors import ConfigError, MissingFileError
from weft.files import embedded_folder, folders_with, resolve
from weft.registry import NAMED, kept_in

What = Literal["models", "adapters", "recipes", "tasks", "encoders"]
Rows = list[dict[str, Any]]


def list_things(
    what: What = "models",
    folder: str | None = None,
    /,
    *,
    strict: Flag = False,
    json: Json = False,
) -> None:
    """List named models, adapters, recipes, tasks or encoders.

    For example:

        weft list
        weft list adapters runs/letters-lora/adapters
        weft list tasks my-tasks/

    Args:
        what: What to list.
        folder: Where to look; adapters that ship with Weft, recipes of the checkout and tasks of the letters
            world unless given.
        strict: End at an adapter that cannot be read; else it is named and left out.
    """
    match what:
        case "models":
            rows = _models(_refuse_folder(what, folder))
        case "adapters":
            rows = _adapters(folder, strict)
        case "recipes":
            rows = _recipes(folder)
        case "tasks":
            rows = _tasks(folder)
        case "encoders":
            rows = _encoders(_refuse_folder(what, folder))
    print_json(rows) if json else print_rows(rows)


def _refuse_folder(what: What, folder: str | None) -> None:
    if folder is not None:
        raise ConfigError(f"weft list {what} takes no folder, got {folder}")


def _models(_: None) -> Rows:
    rows: Rows = []
    for path in sorted(p for p in embedded_folder().glob("*") if p.is_dir()):
        inside = adapters_in(path)
        kind = f"{len(inside)} adapters" if inside else kind_of(path)
        size = round(size_of(path) / 1e6, 2)
        rows.append(
            {"name": f"weft/{path.name}", "kind": kind, "megabytes": size, "where": "ships with Weft"}
        )
    if not rows:
        raise MissingFileError(
            f"no models in {embedded_folder()}; train them with the recipes in recipes/letters"
        )
    for name, model in NAMED.items():
        where = "fetched" if kept_in(model).is_dir() else f"to fetch: weft pull {name}"
        rows.append({"name": name, "kind": "base", "megabytes": model.megabytes, "where": where})
    return rows


def _adapters(folder: str | None, strict: bool) -> Rows:
    from weft.adapters import load_each
    from weft.adapters.card import base_model

    if folder is None:
        paths = [path for holder in sorted(embedded_folder().glob("*")) for path in adapters_in(holder)]
    else:
        place = resolve(folder)
        paths = [] if place is None else adapters_in(place)
    if not paths:
        raise MissingFileError(f"no adapter folders in {folder or embedded_folder()}")
    return [
        {
            "name": adapter.name,
            "rank": adapter.rank,
            "sites": len(adapter.sites),
            "base": adapter.base or base_model(adapter),
            "about": adapter.provenance.get("description"),
            "path": str(path),
        }
        for path, adapter in load_each(paths, strict=strict).items()
    ]


def _recipes(folder: str | None) -> Rows:
    place = checkout_folder("recipes") if folder is None else Path(folder)
    rows: Rows = []
    for path in sorted(place.rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        rows.append(
            {
                "recipe": os.path.relpath(path),
                "about": first.removeprefix("#").strip() if first[:1] == "#" else None,
            }
        )
    if not rows:
        raise MissingFileError(f"no recipes (*.yaml) in {place}")
    return rows


def _tasks(folder: str | None) -> Rows:
    from weft.tasks.source import FolderSource, LettersSource, NaturalInstructionsSource, load_splits

    if folder is None:
        # Few rows: only names and descriptions are shown.
        source = LettersSource(kind="letters", train_rows=1, test_rows=1)
    elif folders_with(Path(folder), "task.yaml"):
        source = FolderSource(kind="folder", path=folder)
    elif Path(folder).is_dir():
        source = NaturalInstructionsSource(kind="natural_instructions", path=folder)
    else:
        raise MissingFileError(f"no folder at {folder}")
    return [
        {"name": task.name, "split": split, "category": task.category, "about": task.descriptions[0]}
        for split, tasks in load_splits(source).items()
        for task in tasks
    ]


def _encoders(_: None) -> Rows:
    from weft.embed import EncoderConfig

    kinds = get_args(get_args(EncoderConfig)[0])
    return [{"kind": get_args(k.model_fields["kind"].annotation)[0], "about": k.__doc__} for k in kinds]
