"""Merging entry by entry: dense deltas, one site and a block of rows at a time, then back to low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from weft.merging.low_rank import refactor
from weft.merging.sources import Merged, Sources, full_rank, widest
from weft.types import Factors, Site

_BLOCK = 2**24
"""Numbers of all deltas that are in memory at once."""

Combine = Callable[[Site, Tensor, slice], Tensor]
"""(site, tau_KOI, rows) -> these rows of the merged delta; tau is 0 where an adapter lacks the site."""


def merge_dense(sources: Sources, rank: int | None, combine: Combine) -> Merged:
    """Merge the deltas of every site in float64, and keep the nearest factors of rank `rank`.

    Unless given, the rank of a site is the sum of its ranks, or the smaller side of its matrix.
    """
    factors, lost = {}, {}
    for site in sources.sites:
        merged_OI = _combine_rows(sources, site, combine)
        most = full_rank(sources, site) if rank is None else min(rank, site.in_features, site.out_features)
        factors[site], lost[site] = refactor(merged_OI, most, widest(sources, site))
    return Merged(factors, lost)


def row_blocks(sources: Sources, site: Site) -> Iterator[slice]:
    """Rows of a site's matrix, so many at a time that all K deltas of them are small."""
    step = max(1, _BLOCK // (len(sources) * site.in_features))
    for start in range(0, site.out_features, step):
        yield slice(start, min(start + step, site.out_features))


def delta_rows(factors: Factors, rows: slice) -> Float[Tensor, "O I"]:
    """Some rows of one dense delta, in float64."""
    return factors.scaling * (factors.b_OR[rows].double() @ factors.a_RI.double())


def _combine_rows(sources: Sources, site: Site, combine: Combine) -> Tensor:
    some = next(a.factors[site].a_RI for a in sources.adapters if site in a.factors)
    merged_OI = some.new_empty(site.out_features, site.in_features, dtype=torch.float64)
    for rows in row_blocks(sources, site):
        tau_KOI = merged_OI.new_zeros(len(sources), rows.stop - rows.start, site.in_features)
        for k, adapter in enumerate(sources.adapters):
            if site in adapter.factors:
                tau_KOI[k] = delta_rows(adapter.factors[site], rows)
        merged_OI[rows] = combine(site, tau_KOI, rows)
    return merged_OI
