"""From scores to means, differences and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from weft.evaluate.conditions import (
    BASE,
    DESCRIBED,
    GENERATED,
    GENERATED_TOLD,
    GIBBERISH,
    MULTITASK,
    MULTITASK_TOLD,
    ORACLE,
    OTHER,
    UNSEEN,
)
from weft.evaluate.controls import FIXED, RANDOM
from weft.evaluate.intervals import bootstrap, interval, p_value, task_means
from weft.evaluate.metrics import METRICS
from weft.evaluate.report import Comparison, Result

COMPARISONS = (
    ("generated - other task's (steering margin)", GENERATED, OTHER),
    ("unseen wording - other task's", UNSEEN, OTHER),
    ("generated - gibberish", GENERATED, GIBBERISH),
    ("generated - base", GENERATED, BASE),
    ("generated - base+description", GENERATED, DESCRIBED),
    ("unseen wording - base+description", UNSEEN, DESCRIBED),
    ("generated - multitask", GENERATED, MULTITASK),
    ("generated - oracle", GENERATED, ORACLE),
    ("unseen wording - oracle", UNSEEN, ORACLE),
    ("generated - random", GENERATED, RANDOM),
    ("generated - fixed", GENERATED, FIXED),
    ("unseen wording - generated", UNSEEN, GENERATED),
    ("generated+description - multitask+description", GENERATED_TOLD, MULTITASK_TOLD),
    ("generated+description - base+description", GENERATED_TOLD, DESCRIBED),
)
"""(name, first, second): the first condition minus the second."""

Scores = Mapping[str, Float[np.ndarray, "S N M X"]]
"""Condition -> scores by seed, task, row and metric; NaN where a row was not drawn or cannot be run."""


class _Replicates:
    """Bootstrap means of all conditions over a set of tasks, one bootstrap per set."""

    def __init__(self, values: Mapping[str, Float[np.ndarray, "N M X"]], samples: int) -> None:
        self.values = values
        self.samples = samples
        self._known: dict[bytes, tuple[dict[str, int], np.ndarray, np.ndarray]] = {}

    def of(self, names: Sequence[str], tasks_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means [C, X] and replicates [samples, C, X] of the named conditions over the chosen tasks."""
        key = tasks_N.tobytes()
        if key not in self._known:
            here = {name: v[tasks_N] for name, v in self.values.items() if _available(v)[tasks_N].all()}
            flat_VNM = np.concatenate([np.moveaxis(v, -1, 0) for v in here.values()])
            shape = (len(here), len(METRICS))
            means_CX = task_means(flat_VNM).mean(-1).reshape(shape)
            draws_SCX = bootstrap(flat_VNM, samples=self.samples).reshape(-1, *shape)
            self._known[key] = ({name: c for c, name in enumerate(here)}, means_CX, draws_SCX)
        place, means_CX, draws_SCX = self._known[key]
        chosen = [place[name] for name in names]
        return means_CX[chosen], draws_SCX[:, chosen]


def summarise(
    scores: Scores, reasons: Mapping[str, str], *, samples: int
) -> tuple[tuple[Result, ...], tuple[Comparison, ...]]:
    """Results of every condition, in their order, and all comparisons that can be made.

    A row counts once, with its mean over the seeds that drew it. Task wordings vary with the seed, and what
    that does to a task is part of the spread between tasks.
    """
    values = {name: _mean_over_seeds(scores_SNMX) for name, scores_SNMX in scores.items()}
    replicates = _Replicates(values, samples)
    results = tuple(_result(name, scores[name], values[name], replicates, reasons[name]) for name in scores)
    both = [names for names in COMPARISONS if names[1] in values and names[2] in values]
    comparisons = (_comparison(*names, values, replicates) for names in both)
    return results, tuple(found for found in comparisons if found is not None)


def by_task(scores: Scores, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Task -> condition -> exact match, over all seeds."""
    found: dict[str, dict[str, float]] = {task: {} for task in tasks}
    for name in scores:
        values_NMX = _mean_over_seeds(scores[name])
        for n in np.flatnonzero(_available(values_NMX)).tolist():
            found[tasks[n]][name] = round(float(np.nanmean(values_NMX[n, :, 0])), 4)
    return found


def _mean_over_seeds(scores_SNMX: np.ndarray) -> np.ndarray:
    drawn_SNMX = ~np.isnan(scores_SNMX)
    count_NMX = drawn_SNMX.sum(0)
    total_NMX = np.where(drawn_SNMX, scores_SNMX, 0.0).sum(0)
    return np.where(count_NMX > 0, total_NMX / np.maximum(count_NMX, 1), np.nan)


def _available(values_NMX: np.ndarray) -> np.ndarray:
    return np.logical_not(np.isnan(values_NMX[..., 0]).all(-1))


def _result(
    name: str, scores_SNMX: np.ndarray, values_NMX: np.ndarray, replicates: _Replicates, reason: str
) -> Result:
    tasks_N = _available(values_NMX)
    if not tasks_N.any():
        return Result(name, 0, 0, {}, {}, reason)
    means_CX, draws_SCX = replicates.of([name], tasks_N)
    metrics = {m: interval(means_CX[0, x], draws_SCX[:, 0, x]) for x, m in enumerate(METRICS)}
    seeds_SX = [task_means(np.moveaxis(one[tasks_N], -1, 0)).mean(-1) for one in scores_SNMX]
    by_seed = {m: tuple(float(one[x]) for one in seeds_SX) for x, m in enumerate(METRICS)}
    rows = int((~np.isnan(values_NMX[..., 0])).sum())
    return Result(name, int(tasks_N.sum()), rows, metrics, by_seed, reason)


def _comparison(
    name: str, first: str, second: str, values: Mapping[str, np.ndarray], replicates: _Replicates
) -> Comparison | None:
    tasks_N = _available(values[first]) & _available(values[second])
    if not tasks_N.any():
        return None
    means_CX, draws_SCX = replicates.of([first, second], tasks_N)
    draws_SX = draws_SCX[:, 0] - draws_SCX[:, 1]  # paired: both saw the same tasks and rows
    differences = {
        m: interval(means_CX[0, x] - means_CX[1, x], draws_SX[:, x]) for x, m in enumerate(METRICS)
    }
    ratio = None
    if draws_SCX[:, 1, 0].min() > 0:
        ratio = interval(means_CX[0, 0] / means_CX[1, 0], draws_SCX[:, 0, 0] / draws_SCX[:, 1, 0])
    p = {m: p_value(draws_SX[:, x]) for x, m in enumerate(METRICS)}
    return Comparison(name, first, second, int(tasks_N.sum()), differences, p, ratio)
