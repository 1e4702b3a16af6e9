"""TIES: trim each adapter, elect a sign for every entry, average those that agree.

    trim:  tau_k keeps its `density` largest entries by magnitude
    elect, disjoint mean: see consensus.py
    delta = scaling * mean

Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models" (arXiv 2306.01708).

Departs from the paper in: nothing with equal weights; entries as large as the smallest kept one, to float32,
are kept too. Trims over the whole adapter, as the paper does; PEFT and mergekit trim every tensor
(`trim="tensor"`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.merging.consensus import disjoint_mean
from weft.merging.dense import merge_dense
from weft.merging.sources import Merged, Sources, in_unit, shares
from weft.merging.threshold import at_site, keep_count, magnitude, over_adapters
from weft.types import Site


def ties(
    sources: Sources,
    *,
    density: float = 0.2,
    trim: str = "adapter",
    scaling: float = 1.0,
    rank: int | None = None,
) -> Merged:
    """Trim, elect and average deltas; weights vote and average, `scaling` is the paper's lambda."""
    in_unit("density", density)
    check_trim(trim)
    shares(sources, "ties")
    limits = {}
    whole = over_adapters(sources, density) if trim == "adapter" else []
    for site in sources.sites:
        kept = keep_count(density, site.in_features * site.out_features)
        limits[site] = whole or at_site(sources, site, kept)

    def combine(site: Site, tau_KOI: Tensor, rows: slice) -> Tensor:
        return scaling * disjoint_mean(trimmed(tau_KOI, limits[site]), sources.weights[site])

    return merge_dense(sources, rank, combine)


def check_trim(trim: str) -> None:
    """Raise ConfigError for a trim that is neither `adapter` nor `tensor`."""
    if trim not in ("adapter", "tensor"):
        raise ConfigError(f"trim is {trim!r}; it goes over the whole `adapter` or over each `tensor`")


def trimmed(tau_KOI: Tensor, limit_K: list[float]) -> Tensor:
    """The deltas without the entries that are smaller than their adapter's limit."""
    limit_K11 = torch.tensor(limit_K, dtype=torch.float32, device=tau_KOI.device)[:, None, None]
    return torch.where(magnitude(tau_KOI) >= limit_K11, tau_KOI, 0.0)
