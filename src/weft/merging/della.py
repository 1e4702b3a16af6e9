"""DELLA: drop entries at random, small ones more often, scale up what is left, then TIES' election and mean.

    in every row, by rank j of the magnitude (0 smallest, n - 1 largest):
    p_j = density - epsilon + 2 epsilon j / (n - 1)     probability to keep
    tau = m * delta / p_j,  m ~ Bernoulli(p_j);         sign election and disjoint mean: see consensus.py

Deep et al. 2024, "DELLA-Merging" (arXiv 2406.11617): MAGPRUNE by rows, then elect and fuse. density = 1 - p,
and epsilon is half the width of the band, as in the authors' code; its default is mergekit's.

Departs from the paper in: nothing with equal weights. The draws follow the order of the adapters. mergekit
departs further: it does not divide by p_j, but scales each tensor to its former sum of magnitudes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError
from weft.merging.consensus import disjoint_mean
from weft.merging.dense import merge_dense
from weft.merging.sources import Merged, Sources, generator, in_unit, shares
from weft.types import Site


def della(
    sources: Sources,
    *,
    density: float,
    epsilon: float = 0.15,
    scaling: float = 1.0,
    seed: int = 0,
    rank: int | None = None,
) -> Merged:
    """TIES on deltas that are thinned by magnitude and chance; the same seed gives the same bytes.

    Raises ConfigError unless density - epsilon is above 0 and density + epsilon at most 1.
    """
    in_unit("density", density)
    if epsilon < 0 or density - epsilon <= 0 or density + epsilon > 1 + 1e-9:
        raise ConfigError(
            f"epsilon is {epsilon}; with density {density} it should be between 0 and "
            f"{min(density, 1 - density):.3g}, so that probabilities stay in (0, 1]"
        )
    shares(sources, "della")
    chance = generator(seed)

    def combine(site: Site, tau_KOI: Tensor, rows: slice) -> Tensor:
        keep_KOI = keep_probability(tau_KOI, density, epsilon)
        kept_KOI = torch.rand(tau_KOI.shape, generator=chance).to(tau_KOI.device) < keep_KOI
        tau_KOI = torch.where(kept_KOI, tau_KOI / keep_KOI, 0.0)
        return scaling * disjoint_mean(tau_KOI, sources.weights[site])

    return merge_dense(sources, rank, combine)


def keep_probability(
    tau_KOI: Float[Tensor, "K O I"], density: float, epsilon: float
) -> Float[Tensor, "K O I"]:
    """The probability to keep each entry, by its rank in its row."""
    rank_KOI = torch.sort(tau_KOI.abs(), dim=-1, stable=True).indices.argsort(-1).to(tau_KOI)
    return density + epsilon * (2.0 * rank_KOI / max(tau_KOI.shape[-1] - 1, 1) - 1.0)
