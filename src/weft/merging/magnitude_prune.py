"""Magnitude pruning: each delta keeps its largest entries, then they are added.

    tau_k keeps its `density` largest entries by magnitude at every site;   delta = sum_k w_k tau_k

PEFT's `magnitude_prune_svd` is the same; its `magnitude_prune` prunes the factors instead.
"""

from __future__ import annotations

from torch import Tensor

from weft.merging.consensus import weighted_sum
from weft.merging.dense import merge_dense
from weft.merging.sources import Merged, Sources, in_unit
from weft.merging.threshold import at_site, keep_count
from weft.merging.ties import trimmed
from weft.types import Site


def magnitude_prune(sources: Sources, *, density: float, rank: int | None = None) -> Merged:
    """The weighted sum of deltas that are pruned tensor by tensor."""
    in_unit("density", density)
    limits = {
        site: at_site(sources, site, keep_count(density, site.in_features * site.out_features))
        for site in sources.sites
    }

    def combine(site: Site, tau_KOI: Tensor, rows: slice) -> Tensor:
        return weighted_sum(trimmed(tau_KOI, limits[site]), sources.weights[site])

    return merge_dense(sources, rank, combine)
