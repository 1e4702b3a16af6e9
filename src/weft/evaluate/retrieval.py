"""How often a request finds its own task in a library: top-k accuracy, also of smaller libraries.

A request is found at k when fewer than k wrong ones are at least as similar as the right one. With g such
wrong ones among K - 1, and n - 1 wrong ones drawn from these (the right one always stays in the library),

    P(found at k among n) = P(X < k),  X ~ Hypergeometric(K - 1, g, n - 1)

which is the mean over all libraries of size n: nothing has to be drawn. For n = K it is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from jaxtyping import Float, Int

from weft.errors import ConfigError, ShapeError
from weft.evaluate.intervals import Interval, bootstrap, interval, task_means


def retrieval(
    similarity_QK: Float[np.ndarray, "Q K"],
    right_Q: Int[np.ndarray, " _"] | Sequence[int],
    *,
    k: Sequence[int] = (1, 3),
    size: int | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> dict[int, Interval]:
    """Accuracy at each k in a library of `size` (all K unless given), with its 95 % interval.

    Row q holds the similarities of request q (more is nearer) to the K tasks, `right_Q` the place of its own.
    Tasks weigh the same, however many requests they have; intervals draw tasks and their requests anew. A tie
    counts against the right one. Raises ShapeError for sizes that do not fit, NaN, or no requests,
    ConfigError for a `size` outside 1 to K or a `k` outside 1 to `size`.
    """
    right_Q = np.asarray(right_Q, dtype=np.int64)
    found_QV = _found(similarity_QK, right_Q, tuple(k), size)
    values_VNM = _by_task(found_QV, right_Q)
    means_V = task_means(values_VNM).mean(-1)
    replicates_SV = bootstrap(values_VNM, samples=samples, seed=seed)
    return {
        n: interval(mean, replicates_SV[:, v]) for v, (n, mean) in enumerate(zip(k, means_V, strict=True))
    }


def ranks(similarity_QK: Float[np.ndarray, "Q K"], right_Q: Int[np.ndarray, " _"]) -> Int[np.ndarray, " Q"]:
    """How many wrong tasks are at least as similar to each request as the right one: 0 is a clear hit.

    Raises ShapeError.
    """
    if similarity_QK.ndim != 2 or right_Q.shape != similarity_QK.shape[:1] or not right_Q.size:
        raise ShapeError(f"{right_Q.size} right places for similarities of shape {list(similarity_QK.shape)}")
    if np.isnan(similarity_QK).any():
        raise ShapeError("a similarity is NaN, so nothing can be ranked by it")
    tasks = similarity_QK.shape[1]
    if right_Q.min() < 0 or right_Q.max() >= tasks:
        raise ShapeError(f"right places run from 0 to {tasks - 1}, got {right_Q.min()} to {right_Q.max()}")
    own_Q1 = similarity_QK[np.arange(len(right_Q)), right_Q][:, None]
    return (similarity_QK >= own_Q1).sum(1) - 1


def _found(
    similarity_QK: np.ndarray, right_Q: np.ndarray, k: tuple[int, ...], size: int | None
) -> Float[np.ndarray, "Q V"]:
    rank_Q = ranks(similarity_QK, right_Q)
    tasks = similarity_QK.shape[1]
    held = tasks if size is None else size
    if not 1 <= held <= tasks:
        raise ConfigError(f"a library of {held} cannot be drawn from {tasks} tasks; take 1 to {tasks}")
    if not k or not all(1 <= n <= held for n in k):
        raise ConfigError(f"k is {list(k)}, a library of {held} allows 1 to {held}")
    rank_R, place_Q = np.unique(rank_Q, return_inverse=True)
    return np.array([[_chance(n, tasks - 1, int(g), held - 1) for n in k] for g in rank_R])[place_Q]


def _chance(k: int, wrong: int, nearer: int, drawn: int) -> float:
    """P(X < k) for X ~ Hypergeometric: fewer than k nearer ones among those drawn."""
    ways = sum(comb(nearer, x) * comb(wrong - nearer, drawn - x) for x in range(min(k, drawn + 1)))
    return ways / comb(wrong, drawn)


def _by_task(found_QV: np.ndarray, right_Q: np.ndarray) -> Float[np.ndarray, "V N M"]:
    """Scores in a row for each task that was asked for; NaN where a task has fewer requests than another."""
    _, place_Q, count_N = np.unique(right_Q, return_inverse=True, return_counts=True)
    values_VNM = np.full((found_QV.shape[1], len(count_N), count_N.max()), np.nan)
    for task in range(len(count_N)):
        values_VNM[:, task, : count_N[task]] = found_QV[place_Q == task].T
    return values_VNM
