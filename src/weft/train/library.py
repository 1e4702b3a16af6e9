"""Train a library: one LoRA for each of hundreds of tasks, a few at a time, each stopped by its own loss.

Groups of tasks of like length share their forwards, as in `train/lora.py`; what an adapter becomes does not
depend on its group. Some train rows of each task are held out: an adapter whose loss on them does not fall
for `patience` looks leaves the batch, and is kept as it was when that loss was lowest. Test rows are only
looked at once, before and after.

`output_dir/adapters/TASK` are PEFT folders, `output_dir/library.json` tells of all that are done. A library
that is started again goes on with the tasks that lack.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from weft.adapters import save
from weft.config import Rank, Size
from weft.errors import ConfigError, NotFiniteError
from weft.files import nearest, read_json, remove_leftovers, replace_file, to_json
from weft.host import Host, short_names
from weft.plain import plain
from weft.reading import shown_path
from weft.rows import AbstractHost
from weft.tasks import Encoded, Task, draw_rows, fit_task, render
from weft.tasks.source import Data, load_splits
from weft.train.best import Best
from weft.train.kept import AGAIN, RECIPE, base_facts, check_base, check_same, keep, lock_folder
from weft.train.learned_bank import LearnedBank, score
from weft.train.learner import BankLearner
from weft.train.optimizer import AdapterOptimizer, OptimizerConfig
from weft.train.recipe import BaseConfig, load_base

INDEX = "library.json"


class LibraryRecipe(BaseConfig):
    """`weft train library RECIPE`; names as in `weft train lora` where they mean the same."""

    output_dir: str
    """Folder of `adapters`, `library.json` and the recipe; an unfinished library goes on there."""
    seed: int = 0
    """Of the first A of every adapter, and of the order of rows."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base; adapters are trained in float32."""
    data: Data
    """Where the tasks come from."""
    splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("train",)
    """Which of its splits."""
    tasks: Size | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The first so many of each split, or these by name, or all."""
    tasks_at_once: Size = 8
    """How many adapters share a forward."""
    r: Rank = 8
    """Rank of the adapters."""
    lora_alpha: float = Field(default=16, gt=0, le=1e6)
    """Deltas are multiplied by `lora_alpha / r`."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r."""
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """As in PEFT: `all-linear`, a pattern over whole paths, or names."""
    optimizer: AdapterOptimizer = OptimizerConfig(lr_scheduler_type="constant_with_warmup")
    """`max_grad_norm` clips each adapter by itself."""
    max_steps: Size = 400
    """Of every adapter, at most."""
    rows_per_task: Size = 8
    """Rows of a task in one step."""
    validation_rows: Size = 8
    """Train rows of each task, the last ones, that it is stopped by and never trained on."""
    eval_steps: Size = 10
    """Steps between two looks at them."""
    patience: Size = 4
    """Looks without a lower loss before an adapter is done."""
    test_rows: Size = 32
    """Test rows of each task, at most, that are scored before and after."""
    tokens_per_forward: Size = 1024
    """A step takes as many forwards as it needs."""
    raw: bool = False
    """Rows are written without the base's chat template, prompt and completion as they are."""
    max_length: int | None = Field(default=None, gt=1, le=1 << 24)
    """Rows of more tokens are left out; None is the window of the base."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved adapters."""


@dataclass(frozen=True)
class _Ready:
    """A task as token ids."""

    task: Task
    train: tuple[Encoded, ...]
    validation: tuple[Encoded, ...]
    test: tuple[Encoded, ...]


def train_library(recipe: LibraryRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns the folder of adapters. A `host` takes the place of loading `base`.

    Raises ConfigError for a split or a name that the data lacks, for two tasks of one name, and when the
    folder holds a library of another recipe, of other data or over another base; NotFiniteError at the first
    loss that is no number.
    """
    tasks = _choose(recipe)
    folder = Path(recipe.output_dir)
    lock = lock_folder(folder)
    try:
        done = _done(folder) if resume else {}
        if resume and (folder / RECIPE).is_file():
            check_same(folder, recipe, None, free={"splits", "tasks"})  # others may join those that are done
            _check_data(folder, done, tasks)
        device = Accelerator().device
        host = host or load_base(recipe, device, target_modules=recipe.target_modules, dtype=recipe.dtype)
        if done:
            check_base(folder, host, file=INDEX)
        if not resume:
            _drop(folder)
        keep(folder, recipe, None)
        remove_leftovers(folder / "adapters")
        _train_all(recipe, host, tasks, folder, done=done)
    finally:
        os.close(lock)
    return folder / "adapters"


def _train_all(
    recipe: LibraryRecipe, host: Host, tasks: Sequence[Task], folder: Path, *, done: dict[str, Any]
) -> None:
    console = Console(stderr=True)
    columns = MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(compact=True)
    with Progress(*columns, TextColumn("{task.fields[shown]}", markup=False), console=console) as bar:
        before = sum(task.name in done for task in tasks)
        shown = bar.add_task("", total=len(tasks), completed=before, shown="")
        left = sorted((task for task in tasks if task.name not in done), key=lambda task: task.mean_length)
        for start in range(0, len(left), recipe.tasks_at_once):
            group = left[start : start + recipe.tasks_at_once]
            ready = [found for task in group if (found := _ready(task, host, recipe)) is not None]
            for task in group:
                if task.name not in {one.task.name for one in ready}:
                    bar.console.print(f"left out {plain(task.name)}: too few rows that fit", markup=False)
            if ready:
                done |= _train_group(recipe, host, ready, folder / "adapters")
                _write_index(folder, recipe, host, done)
            rate = fmean(one["test_followed"] for one in done.values()) if done else 0.0
            bar.update(shown, advance=len(group), shown=f"{len(done)} done, {rate:.2f} of test answers right")


def _train_group(
    recipe: LibraryRecipe, host: Host, ready: Sequence[_Ready], folder: Path
) -> dict[str, dict[str, Any]]:
    """Train a few adapters at once, save each as it was at its best, and tell of them by name."""
    root = math.sqrt(recipe.r) if recipe.use_rslora else recipe.r
    names = [one.task.name for one in ready]
    scaling = recipe.lora_alpha / root
    bank = LearnedBank(host.sites, names, r=recipe.r, scaling=scaling, seed=recipe.seed).to(host.device)
    learner = BankLearner(host, bank, recipe.optimizer, steps=recipe.max_steps)
    before = [_score(host, bank, k, one.test, recipe) for k, one in enumerate(ready)]
    best, ended = Best(bank), [0] * len(ready)
    best.see(0, [_score(host, bank, k, one.validation, recipe)[0] for k, one in enumerate(ready)])
    for done in range(1, recipe.max_steps + 1):
        active = [k for k, end in enumerate(ended) if not end]
        rows: list[list[Encoded]] = [[] for _ in ready]
        for k in active:
            key = f"{recipe.seed}/{ready[k].task.name}"
            rows[k] = draw_rows(ready[k].train, recipe.rows_per_task, done - 1, key)
        loss_K = learner.backward(rows, tokens=recipe.tokens_per_forward)
        if not loss_K.isfinite().all():
            worst = names[int((~loss_K.isfinite()).nonzero()[0])]
            raise NotFiniteError(f"the loss of {worst} is no number at step {done}; lower the learning rate")
        learner.step()
        if done % recipe.eval_steps and done != recipe.max_steps:
            continue
        looked = [math.inf] * len(ready)
        for k in active:
            looked[k] = _score(host, bank, k, ready[k].validation, recipe)[0]
        best.see(done, looked)
        for k in active:
            if done - best.steps[k] >= recipe.patience * recipe.eval_steps or done == recipe.max_steps:
                ended[k] = done
        if all(ended):
            break
    best.bring_back()
    facts = {}
    for k, one in enumerate(ready):
        loss, followed = _score(host, bank, k, one.test, recipe)
        facts[one.task.name] = {
            "description": one.task.descriptions[0],
            "category": one.task.category,
            "data_hash": one.task.data_hash,
            "train_rows": len(one.train),
            "steps": ended[k],
            "kept_step": best.steps[k],
            "validation_loss": best.losses[k],
            "test_loss": loss,
            "test_followed": followed,
            "test_loss_before": before[k][0],
            "test_followed_before": before[k][1],
        }
        _save(recipe, host, bank, k, facts[one.task.name], folder)
    return facts


def _save(
    recipe: LibraryRecipe, host: Host, bank: LearnedBank, k: int, facts: dict[str, Any], folder: Path
) -> None:
    provenance = {
        "base_model": recipe.base,
        "recipe": recipe.model_dump(mode="json", exclude={"output_dir"}),
        "seed": recipe.seed,
        "target_modules": short_names(host.sites, host.module),
        "description": facts["description"],
        "data_hash": facts["data_hash"],
        "metrics": {key: facts[key] for key in ("validation_loss", "test_loss", "test_followed")},
        "step": facts["kept_step"],
    }
    dtype = getattr(torch, recipe.save_dtype)
    save(bank.adapter(k, base=host.fingerprint, provenance=provenance, dtype=dtype), folder / bank.names[k])


def _write_index(folder: Path, recipe: LibraryRecipe, host: AbstractHost, done: dict[str, Any]) -> None:
    index = {**base_facts(host), "base_model": recipe.base, "rank": recipe.r, "tasks": done}
    replace_file(folder / INDEX, to_json(index))


def _done(folder: Path) -> dict[str, Any]:
    """What the index tells of adapters that are there."""
    file = folder / INDEX
    tasks = read_json(file).get("tasks", {}) if file.is_file() else {}
    there = folder / "adapters"
    return {name: facts for name, facts in tasks.items() if (there / name / "adapter_config.json").is_file()}


def _drop(folder: Path) -> None:
    """Remove what an earlier library has made here, lest the next resume takes it."""
    made = _done(folder)
    (folder / INDEX).unlink(missing_ok=True)
    for name in made:
        shutil.rmtree(folder / "adapters" / name)


def _check_data(folder: Path, done: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Raise ConfigError, naming the task, where an adapter that is done has learned other rows."""
    for task in tasks:
        if task.name in done and done[task.name]["data_hash"] != task.data_hash:
            raise ConfigError(
                f"the data of {task.name} has changed since its adapter in {shown_path(folder)} was trained; "
                f"{AGAIN}"
            )


def _choose(recipe: LibraryRecipe) -> list[Task]:
    splits = load_splits(recipe.data, *recipe.splits)
    tasks: dict[str, Task] = {}
    for name in recipe.splits:
        for task in splits[name][: recipe.tasks if isinstance(recipe.tasks, int) else None]:
            if task.name in tasks:
                raise ConfigError(f"two tasks of these splits are called {task.name}")
            tasks[task.name] = task
    if not isinstance(recipe.tasks, tuple):
        return list(tasks.values())
    for name in recipe.tasks:
        if name not in tasks:
            raise ConfigError(f"no task {name!r} in {', '.join(recipe.splits)}{nearest(name, tasks)}")
    return [tasks[name] for name in dict.fromkeys(recipe.tasks)]


def _ready(task: Task, host: AbstractHost, recipe: LibraryRecipe) -> _Ready | None:
    """The task as token ids; None where rows to train on, to stop by or to test on lack."""
    longest = recipe.max_length or host.window or sys.maxsize
    tokenizer = copy.copy(host.tokenizer)
    if recipe.raw:
        tokenizer.chat_template = None
    fitting, _ = fit_task(tokenizer, task, max_length=longest)
    if fitting is None or len(fitting.train) <= recipe.validation_rows or not fitting.test:
        return None
    train_ids, test_ids = (
        tuple(render(tokenizer, row) for row in part)
        for part in (fitting.train, fitting.test[: recipe.test_rows])
    )
    held = recipe.validation_rows
    return _Ready(task, train_ids[:-held], train_ids[-held:], test_ids)


def _score(
    host: AbstractHost, bank: LearnedBank, k: int, rows: Sequence[Encoded], recipe: LibraryRecipe
) -> tuple[float, float]:
    return score(host, bank.part(k, k + 1), rows, tokens=recipe.tokens_per_forward)
