"""A recipe in, a report out."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from weft.config import Config
from weft.evaluate.compare import Options, compare
from weft.evaluate.report import Report
from weft.evaluate.specialists import load_by_task, load_for
from weft.evaluate.tables import versions
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.tasks import Task, hash_tasks
from weft.tasks.source import Data, load_splits


class EvalRecipe(Config):
    """`weft eval RECIPE`; see `Options` for how much is evaluated."""

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
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws wordings and rows of its own."""
    max_tasks: PositiveInt | None = None
    """Tasks of a split, at most; all unless given."""
    rows_per_task: PositiveInt = 24
    """Test rows of a task, at most."""
    max_new_tokens: PositiveInt = 32
    """Most tokens of an answer."""
    batch_size: PositiveInt = 128
    """Rows that are answered side by side."""
    bootstrap_samples: PositiveInt = 2000
    """Draws behind the confidence intervals."""
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
    hypernetworks = [_load_hypernetwork(name, host) for name in recipe.hypernetworks]
    tasks = [task for name in chosen for task in splits[name]]
    reports = compare(
        host,
        {name: splits[name] for name in chosen},
        hypernetworks=hypernetworks,
        multitask=None if recipe.multitask is None else load_for(host, recipe.multitask),
        oracles=None if recipe.oracles is None else load_by_task(recipe.oracles, tasks, host),
        options=Options(
            seeds=recipe.seeds,
            max_tasks=recipe.max_tasks,
            rows_per_task=recipe.rows_per_task,
            max_new_tokens=recipe.max_new_tokens,
            batch_size=recipe.batch_size,
            bootstrap_samples=recipe.bootstrap_samples,
        ),
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


def _load_hypernetwork(name: str, host: Host) -> HyperNetwork:
    return HyperNetwork.from_pretrained(name, host=host).to(host.device)


def _notes(recipe: EvalRecipe, hypernetworks: list[HyperNetwork], train: tuple[Task, ...]) -> tuple[str, ...]:
    """What a reader must know before believing the words seen and unseen."""
    expected = hash_tasks(train)
    return tuple(
        f"{name} was trained on data other than this train split; what is called seen may be unseen, "
        "and the reverse"
        for name, hyper in zip(recipe.hypernetworks, hypernetworks, strict=True)
        if hyper.provenance.get("data_hash", expected) != expected
    )
