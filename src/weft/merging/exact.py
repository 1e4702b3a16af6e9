"""The weighted sum of deltas, from factors alone: what every linear method ends with.

    delta = sum_k w_k s_k B_k A_k = [w_1 s_1 B_1, ..., w_K s_K B_K] [A_1; ...; A_K]

No delta is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable

from weft.adapters import concat
from weft.merging.low_rank import cut
from weft.merging.sources import Merged, Sources, widest
from weft.types import Adapter, Factors, Site


def weighted_sum_of(
    sources: Sources, weights_of: Callable[[Site], tuple[float, ...]], rank: int | None
) -> Merged:
    """The sum of the deltas of every site with these weights: exact, or the nearest one of a rank."""
    factors, lost = {}, {}
    for site in sources.sites:
        factors[site], lost[site] = cut(join(sources, site, weights_of(site)), rank, widest(sources, site))
    return Merged(factors, lost)


def join(sources: Sources, site: Site, weights: tuple[float, ...]) -> Factors:
    """One site's factors side by side, the weights multiplied in."""
    parts = [Adapter({site: a.factors[site]} if site in a.factors else {}) for a in sources.adapters]
    return concat(parts, weights).factors[site]
