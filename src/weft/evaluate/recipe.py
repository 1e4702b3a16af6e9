"""A recipe in, a report out."""

from __future__ import annotations

from typing import Literal

from weft.evaluate.compare import compare
from weft.evaluate.options import Options
from weft.evaluate.report import Report
from weft.evaluate.specialists import load_by_task, load_for
from weft.evaluate.tables import versions
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.tasks import Task, hash_tasks
from weft.tasks.source import Data, load_splits


class EvalRecipe(Options):
    """`weft eval RECIPE`."""

    base: str
    """Embedded name, folder or hub id of the frozen base."""
    device: str = "cpu"
    """Where the base runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base."""
    hypernetworks: tuple[str, ...] = ()
    """One for all seeds, or one per seed, trained with different ones."""
    multitask: str | None = None
    """Adapter folder: one LoRA for all tasks."""
    oracles: str | None = None
    """Folder of adapter folders, each named as the task that it was trained for."""
    data: Data
    splits: tuple[str, ...] = ()
    """Which splits of the data; all of them unless given."""
    output: str | None = None
    """Where `write_report` should put the Markdown page."""


def evaluate(recipe: EvalRecipe, *, command: str = "") -> Report:
    """Evaluate every control condition as a recipe says; `command` is told in the report.

    Raises MissingFileError for an adapter, hypernetwork or data file that is not there, BaseMismatchError for
    one of another base, ConfigError for an unknown split, and what `compare` raises.
    """
    splits = load_splits(recipe.data, *recipe.splits)
    chosen = recipe.splits or tuple(splits)
    host = Host.from_pretrained(recipe.base, dtype=recipe.dtype, device=recipe.device)
    hypernetworks = [
        HyperNetwork.from_pretrained(name, host=host).to(host.device) for name in recipe.hypernetworks
    ]
    tasks = [task for name in chosen for task in splits[name]]
    reports = compare(
        host,
        {name: splits[name] for name in chosen},
        hypernetworks=hypernetworks,
        multitask=None if recipe.multitask is None else load_for(host, recipe.multitask),
        oracles=None if recipe.oracles is None else load_by_task(recipe.oracles, tasks, host),
        options=recipe,
    )
    return Report(
        splits=reports,
        seeds=recipe.seeds,
        base=recipe.base,
        fingerprint=host.fingerprint,
        recipe=recipe.model_dump(mode="json"),
        versions=versions(),
        command=command,
        notes=_notes(recipe, hypernetworks, splits["train"]),
    )


def _notes(recipe: EvalRecipe, hypernetworks: list[HyperNetwork], train: tuple[Task, ...]) -> tuple[str, ...]:
    """What a reader must know before believing the words seen and unseen."""
    expected = hash_tasks(train)
    return tuple(
        f"{name} was trained on data other than this train split; what is called seen may be unseen, "
        "and the reverse"
        for name, hyper in zip(recipe.hypernetworks, hypernetworks, strict=True)
        if hyper.provenance.get("data_hash", expected) != expected
    )
