"""Every condition on the same rows of the same tasks, over several seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from weft.engine import Engine
from weft.errors import ConfigError
from weft.evaluate.conditions import CONDITIONS, GENERATED, TOLD, Condition, build_conditions, tell_too
from weft.evaluate.controls import CONTROLS, build_controls
from weft.evaluate.diversity import mean_cosine
from weft.evaluate.options import Options
from weft.evaluate.report import SplitReport
from weft.evaluate.scorer import Scorer
from weft.evaluate.summary import by_task, summarise
from weft.evaluate.wordings import Wordings, draw_wordings
from weft.rows import AbstractHost
from weft.tasks import Task, hash_tasks, shuffled
from weft.types import AbstractHyperNetwork, Adapter

_MOST_COSINES = 128  # adapters whose pairs are compared; memory grows with their square
_PICTURES = "adapters are made from pictures: the other task's is another one, gibberish is noise"


Build = Callable[[Sequence[Task], Wordings, int], tuple[Condition, ...]]
"""The conditions over some tasks with their wordings, under the seed at a place among all seeds."""


def compare(
    host: AbstractHost,
    splits: Mapping[str, Sequence[Task]],
    *,
    hypernetworks: Sequence[AbstractHyperNetwork] = (),
    multitask: Adapter | None = None,
    oracles: Mapping[str, Adapter] | None = None,
    options: Options | None = None,
    shortcut: bool = True,
) -> tuple[SplitReport, ...]:
    """Evaluate all conditions on test rows of every split; progress goes to standard error.

    A seed draws rows, wordings, the other task of each task, and gibberish. `hypernetworks` are none, one for
    all seeds, or one per seed; `oracles` are adapters by task name. Without `shortcut` what the
    forward for the loss has proven is decoded again. Raises ConfigError for any other number of
    hypernetworks, seeds that repeat or lack, a split without test rows, or rows of plain text.
    """
    options = options or Options()
    if len(hypernetworks) not in (0, 1, len(options.seeds)):
        raise ConfigError(
            f"give one hypernetwork, or one per seed ({len(options.seeds)}); got {len(hypernetworks)}"
        )

    def build(tasks: Sequence[Task], wordings: Wordings, place: int) -> tuple[Condition, ...]:
        which = min(place, len(hypernetworks) - 1)
        conditions = build_conditions(
            tasks,
            wordings,
            hyper=hypernetworks[which] if hypernetworks else None,
            hyper_key=str(which),
            multitask=multitask,
            oracles=oracles,
        )
        return conditions + (tell_too(conditions) if options.with_description else ())

    names = CONDITIONS + (TOLD if options.with_description else ())
    chosen = {name: _choose(name, tasks, oracles or {}, options.max_tasks) for name, tasks in splits.items()}
    return _compare(host, chosen, build, names, options, shortcut)


def compare_controls(
    host: AbstractHost,
    splits: Mapping[str, Sequence[Task]],
    *,
    hypernetwork: AbstractHyperNetwork,
    fixed: Adapter,
    options: Options | None = None,
) -> tuple[SplitReport, ...]:
    """Evaluate generated adapters beside random ones of their size and one fixed adapter.

    Tasks, rows and wordings are those that `compare` draws without oracles. Raises what it raises.
    """
    options = options or Options()

    def build(tasks: Sequence[Task], wordings: Wordings, place: int) -> tuple[Condition, ...]:
        return build_controls(tasks, wordings, hyper=hypernetwork, fixed=fixed, seed=options.seeds[place])

    chosen = {name: _choose(name, tasks, {}, options.max_tasks) for name, tasks in splits.items()}
    return _compare(host, chosen, build, CONTROLS, options, True)


def _compare(
    host: AbstractHost,
    splits: Mapping[str, Sequence[Task]],
    build: Build,
    names: Sequence[str],
    options: Options,
    shortcut: bool,
) -> tuple[SplitReport, ...]:
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ConfigError(f"seeds should be one or more, all different; got {list(options.seeds)}")
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        return tuple(
            _compare_split(split, tasks, Engine(host), build, names, options, shortcut, bar)
            for split, tasks in splits.items()
        )


def _compare_split(
    split: str,
    tasks: Sequence[Task],
    engine: Engine,
    build: Build,
    names: Sequence[str],
    options: Options,
    shortcut: bool,
    bar: Progress,
) -> SplitReport:
    rows_SN, tasks, notes = _draw_rows(engine, tasks, options)
    scorer = Scorer(engine, tasks, options, shortcut=shortcut)
    total = len(names) * sum(len(rows) for rows_N in rows_SN for rows in rows_N)
    shown = bar.add_task(split, total=total)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in names}
    reasons, cosine = {}, []
    for place, (seed, rows_N) in enumerate(zip(options.seeds, rows_SN, strict=True)):
        wordings = draw_wordings(tasks, seed)
        for condition in build(tasks, wordings, place):
            found = scorer.score(condition, rows_N, wordings.seen, lambda rows: bar.advance(shown, rows))
            scores[condition.name].append(found)
            reasons[condition.name] = condition.reason
            if condition.name == GENERATED:
                cosine += _cosine(condition)
    stacked = {name: np.stack(found) for name, found in scores.items()}
    results, comparisons = summarise(stacked, reasons, samples=options.bootstrap_samples)
    if any(task.image is not None for task in tasks):
        notes = (*notes, _PICTURES)
    return SplitReport(
        name=split,
        tasks=len(tasks),
        rows=results[0].rows,
        data_hash=hash_tasks(tasks),
        results=results,
        comparisons=comparisons,
        cosine=tuple(cosine),
        by_task=by_task(stacked, [task.name for task in tasks]),
        notes=notes,
    )


def _choose(
    split: str, tasks: Sequence[Task], oracles: Mapping[str, Adapter], max_tasks: int | None
) -> tuple[Task, ...]:
    """The tasks to evaluate, in their own order."""
    with_rows = [task for task in tasks if task.test]
    if not with_rows:
        raise ConfigError(f"no task of split {split} has test rows to evaluate")
    for task in with_rows:
        if any(row.is_text for row in task.test):
            raise ConfigError(f"task {task.name} has test rows of plain text, which ask nothing; use prompts")
    ranked = sorted(
        with_rows, key=lambda t: (t.name not in oracles, hashlib.sha256(t.name.encode()).digest())
    )
    names = {task.name for task in ranked[:max_tasks]}
    return tuple(task for task in with_rows if task.name in names)


def _draw_rows(
    engine: Engine, tasks: Sequence[Task], options: Options
) -> tuple[list[list[tuple[int, ...]]], tuple[Task, ...], tuple[str, ...]]:
    """Rows by seed and task, the tasks that have some under every seed, and what to tell of the others."""
    scorer = Scorer(engine, tasks, options)
    rows_SN, lost = [], 0
    for seed in options.seeds:
        rows_N = []
        for n, (task, text) in enumerate(zip(tasks, draw_wordings(tasks, seed).seen, strict=True)):
            order = shuffled(len(task.test), f"{seed}/rows/{task.name}")[: options.rows_per_task]
            rows_N.append(tuple(m for m in order if scorer.fits(n, m, text)))
            lost += len(order) - len(rows_N[-1])
        rows_SN.append(rows_N)
    kept = [n for n in range(len(tasks)) if all(rows_N[n] for rows_N in rows_SN)]
    window = engine.host.window
    if not kept:
        raise ConfigError(f"no test row fits the base's window of {window} tokens with its description")
    notes = []
    if lost:
        notes.append(f"{lost} of the rows drawn do not fit the window of {window} tokens and were left out")
    if len(kept) < len(tasks):
        notes.append(f"{len(tasks) - len(kept)} tasks have no row that fits and were left out")
    return [[rows_N[n] for n in kept] for rows_N in rows_SN], tuple(tasks[n] for n in kept), tuple(notes)


def _cosine(condition: Condition) -> list[float]:
    index = sorted({k for k in condition.adapter_N if k is not None})[:_MOST_COSINES]
    if condition.bank is None or len(index) < 2:
        return []
    return [mean_cosine(condition.bank.select(torch.tensor(index)))]
