"""KnOTS: TIES in a basis that all adapters share, from factors alone.

    [delta_1 | ... | delta_K] = U S [V_1 | ... | V_K],   M_k = S V_k   [R, I]
    delta = U * TIES(M_1, ..., M_K)

Stoica et al. 2024, "Model merging with SVD to tie the KnOTS" (arXiv 2410.19735). With B_cat = Q C
the deltas are Q [C_k s_k A_k], so the SVD is that of a matrix with as many rows as the ranks add up to; the
result has that rank, and nothing is cut unless `rank` asks for it.

Departs from the paper in: singular values are dropped below 1e-6 of the largest, not below 1e-5.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from weft.merging.consensus import disjoint_mean
from weft.merging.low_rank import cut
from weft.merging.sources import Merged, Sources, in_unit, shares, widest
from weft.merging.threshold import keep_count, kth_largest
from weft.merging.ties import check_trim, trimmed
from weft.types import Factors, Site

_NOTHING = 1e-6
"""Singular values below this part of the largest are directions that no adapter uses."""


def knots(
    sources: Sources,
    *,
    density: float = 0.2,
    trim: str = "adapter",
    scaling: float = 1.0,
    rank: int | None = None,
) -> Merged:
    """TIES on the coordinates of every adapter in the shared basis."""
    in_unit("density", density)
    check_trim(trim)
    shares(sources, "knots")
    bases = {site: shared_basis(sources, site) for site in sources.sites}
    whole = _limits(sources, bases, sources.sites, density) if trim == "adapter" else []
    factors, lost = {}, {}
    for site, (u_OR, m_KRI) in bases.items():
        limits = whole or _limits(sources, bases, (site,), density)
        merged_RI = scaling * disjoint_mean(trimmed(m_KRI, limits), sources.weights[site])
        dtype = widest(sources, site)
        joined = Factors(merged_RI.to(dtype), u_OR.to(dtype), 1.0)
        factors[site], lost[site] = cut(joined, rank, dtype)
    return Merged(factors, lost)


def shared_basis(sources: Sources, site: Site) -> tuple[Float[Tensor, "O R"], Float[Tensor, "K R I"]]:
    """The basis U of one site, and the coordinates S V_k of every delta in it; zeros where it has none."""
    parts = {k: a.factors[site] for k, a in enumerate(sources.adapters) if site in a.factors}
    q_OR, c_RR = torch.linalg.qr(torch.cat([part.b_OR.double() for part in parts.values()], dim=1))
    halves = c_RR.split([part.a_RI.shape[0] for part in parts.values()], dim=1)
    m_KRI = q_OR.new_zeros(len(sources), q_OR.shape[1], site.in_features)
    for (k, part), half in zip(parts.items(), halves, strict=True):
        m_KRI[k] = part.scaling * (half @ part.a_RI.double())
    u_RR, s_R, _ = torch.linalg.svd(torch.cat(list(m_KRI), dim=1), full_matrices=False)
    u_RR = u_RR[:, : max(1, int((s_R > _NOTHING * s_R[0]).sum()))]
    return q_OR @ u_RR, u_RR.mT @ m_KRI


def _limits(
    sources: Sources,
    bases: dict[Site, tuple[Tensor, Tensor]],
    sites: tuple[Site, ...],
    density: float,
) -> list[float]:
    """For each adapter, the magnitude that the kept share of its coordinates at these sites reach."""
    limits = []
    for k, adapter in enumerate(sources.adapters):
        own = [bases[site][1][k] for site in sites if site in adapter.factors]
        size = sum(m_RI.numel() for m_RI in own)
        limits.append(kth_largest(lambda own=own: own, keep_count(density, size)) if own else 0.0)
    return limits
