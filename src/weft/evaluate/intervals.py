"""How far a mean over tasks and rows can be trusted: a two-level bootstrap.

A replicate draws N of the N tasks with replacement and, for each task drawn, as many of its rows as it has,
again with replacement (Davison and Hinkley 1997, section 3.8; Efron and Tibshirani 1993, chapter 13):

    mean* = 1/N sum over drawn tasks  1/M_t sum over drawn rows of t  score

Every score gets the same draws, so a difference of two means is a paired difference. Rows are drawn as well
as tasks, which makes the intervals a little wide rather than too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from weft.errors import ShapeError

_CHUNK = 2**22  # weights held at once, 32 MiB
_DIGITS = 12  # what sums in another order may change is cut off, so that equal means are equal


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def task_means(values_VNM: Float[np.ndarray, "V N M"]) -> Float[np.ndarray, "V N"]:
    """Mean over each task's rows; a row that is absent is NaN.

    Raises ShapeError for a task without rows, or when the V scores do not have the same rows.
    """
    present_NM = _present(values_VNM)
    return (np.where(present_NM, values_VNM, 0.0).sum(-1) / present_NM.sum(-1)).round(_DIGITS)


def bootstrap(
    values_VNM: Float[np.ndarray, "V N M"], *, samples: int = 2000, seed: int = 0
) -> Float[np.ndarray, "S V"]:
    """Means of V scores in `samples` replicates of N tasks with up to M rows; NaN is a row that is absent.

    Raises ShapeError as `task_means` does.

    Args:
        values_VNM: Scores of V ways on N tasks with up to M rows.
        samples: S, how many replicates.
        seed: Of what is drawn.

    Example:
        >>> import numpy as np
        >>> from weft.evaluate import bootstrap, interval, task_means
        >>> right_VNM = np.array([[[1.0, 1.0], [0.0, 1.0]]])  # one way, two tasks of two rows
        >>> mean = float(task_means(right_VNM).mean())
        >>> interval(mean, bootstrap(right_VNM)[0]).low < mean
        True
    """
    present_NM = _present(values_VNM)
    flat_PV = values_VNM[:, present_NM].T
    chance = np.random.default_rng(seed)
    count_N = present_NM.sum(-1)
    step = max(1, _CHUNK // len(flat_PV))
    chunks = [
        _weights(count_N, min(step, samples - start), chance) @ flat_PV for start in range(0, samples, step)
    ]
    return np.concatenate(chunks).round(_DIGITS)


def interval(mean: float, replicates_S: Float[np.ndarray, " S"]) -> Interval:
    """The 95 % percentile interval of a mean."""
    low, high = np.quantile(replicates_S, (0.025, 0.975))
    return Interval(round(float(mean), _DIGITS), float(low), float(high))


def p_value(replicates_S: Float[np.ndarray, " S"]) -> float:
    """Two-sided p that a mean (or difference) is 0, by inverting the percentile interval.

    Its least value is 2 / (S + 1).
    """
    below, above = int((replicates_S <= 0).sum()), int((replicates_S >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(replicates_S)))


def _present(values_VNM: np.ndarray) -> np.ndarray:
    present_NM = ~np.isnan(values_VNM[0])
    if not present_NM.any(-1).all():
        raise ShapeError("every task needs at least one row to resample")
    if (np.isnan(values_VNM) == present_NM).any():
        raise ShapeError("scores that are compared need the same rows")
    return present_NM


def _weights(count_N: np.ndarray, samples: int, chance: np.random.Generator) -> np.ndarray:
    """[samples, rows of all tasks]: how much each row counts in each replicate; a replicate sums to 1."""
    tasks = len(count_N)
    task_SN = chance.integers(tasks, size=(samples, tasks))
    # A task of M rows that is drawn d times draws d * M rows: one long list of (replicate, row) draws.
    rows_SN = count_N[task_SN]
    first_N = np.concatenate([[0], np.cumsum(count_N)[:-1]])
    total = int(count_N.sum())
    repeat = rows_SN.ravel()
    base = (np.arange(samples)[:, None] * total + first_N[task_SN]).ravel()
    size_P = np.repeat(repeat, repeat)
    place_P = np.repeat(base, repeat) + (chance.random(len(size_P)) * size_P).astype(np.int64)
    weights = np.bincount(place_P, weights=1.0 / (tasks * size_P), minlength=samples * total)
    return weights.reshape(samples, total)
