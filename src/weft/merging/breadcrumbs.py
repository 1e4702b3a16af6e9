"""Model Breadcrumbs: each delta loses its largest entries as well as its smallest, then they are added.

    by magnitude at every site, tau_k loses the top `gamma` and keeps the next `density` of its entries
    delta = sum_k w_k tau_k

Davari and Belilovsky 2023, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks" (arXiv
2312.06795), with mergekit's names for the two ends of what is kept.

Departs from the paper in: each adapter has a weight of its own in the place of one alpha.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.merging.consensus import weighted_sum
from weft.merging.dense import merge_dense
from weft.merging.sources import Merged, Sources, in_unit
from weft.merging.threshold import at_site, keep_count, magnitude
from weft.merging.ties import trimmed
from weft.types import Site


def breadcrumbs(sources: Sources, *, density: float, gamma: float = 0.01, rank: int | None = None) -> Merged:
    """The weighted sum of deltas without outliers and without small entries.

    Raises ConfigError unless `density` is in (0, 1], `gamma` in [0, 1), and both together at most 1.
    """
    in_unit("density", density)
    if not 0 <= gamma < 1 or density + gamma > 1 + 1e-9:
        raise ConfigError(f"gamma is {gamma}; it should be at least 0, and at most 1 with density {density}")
    lower, upper = {}, {}
    for site in sources.sites:
        size = site.in_features * site.out_features
        top = round(gamma * size)
        lower[site] = at_site(sources, site, min(size, top + keep_count(density, size)))
        upper[site] = at_site(sources, site, top) if top else [torch.inf] * len(sources)

    def combine(site: Site, tau_KOI: Tensor, rows: slice) -> Tensor:
        limit_K11 = torch.tensor(upper[site], dtype=torch.float32, device=tau_KOI.device)[:, None, None]
        tau_KOI = torch.where(magnitude(tau_KOI) < limit_K11, tau_KOI, 0.0)
        return weighted_sum(trimmed(tau_KOI, lower[site]), sources.weights[site])

    return merge_dense(sources, rank, combine)
