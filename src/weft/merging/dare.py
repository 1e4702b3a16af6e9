"""DARE: drop entries of every delta at random, and scale up what is left.

    m ~ Bernoulli(density),   tau_k = m * delta_k / density
    dare_linear: delta = sum_k w_k tau_k          dare_ties: sign election and disjoint mean, see consensus.py

Yu et al. 2024, "Language Models are Super Mario", with density = 1 - p (arXiv 2311.03099).

Departs from the paper in: nothing. The draws follow the order of the adapters, so another order is another
draw.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weft.merging.consensus import disjoint_mean, weighted_sum
from weft.merging.dense import merge_dense
from weft.merging.sources import Merged, Sources, generator, in_unit, shares
from weft.types import Site


def dare_linear(sources: Sources, *, density: float, seed: int = 0, rank: int | None = None) -> Merged:
    """The weighted sum of deltas, each thinned at random; the same seed gives the same bytes."""
    return _dare(sources, density, seed, rank, weighted_sum)


def dare_ties(
    sources: Sources, *, density: float, scaling: float = 1.0, seed: int = 0, rank: int | None = None
) -> Merged:
    """TIES on deltas that are thinned at random instead of trimmed; the same seed gives the same bytes."""
    shares(sources, "dare_ties")
    return _dare(sources, density, seed, rank, lambda tau, weights: scaling * disjoint_mean(tau, weights))


def _dare(
    sources: Sources,
    density: float,
    seed: int,
    rank: int | None,
    join: Callable[[Tensor, tuple[float, ...]], Tensor],
) -> Merged:
    in_unit("density", density)
    chance = generator(seed)

    def combine(site: Site, tau_KOI: Tensor, rows: slice) -> Tensor:
        kept_KOI = torch.rand(tau_KOI.shape, generator=chance).to(tau_KOI.device) < density
        return join(torch.where(kept_KOI, tau_KOI / density, 0.0), sources.weights[site])

    return merge_dense(sources, rank, combine)
