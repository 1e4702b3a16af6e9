"""Fisher merging: the mean of deltas, each entry weighted by how sure every adapter is of it.

    delta = sum_k w_k F_k * delta_k / sum_k w_k F_k      elementwise, F_k the diagonal of the Fisher matrix

Matena and Raffel 2022, "Merging Models with Fisher-Weighted Averaging" (arXiv 2111.09832). In
deltas, where the base's own weights cancel: A and B are only defined up to (B M, M^-1 A), so a Fisher on
them means nothing. Where all adapters share one A, F may be that of B, [O, R], and the result is exact.

Departs from the paper in: each F_k is first divided by its mean (`normalize`; the authors' code divides by
its norm), so that a task with large gradients does not win everywhere and the floor means the same at every
size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, ShapeError, WeightsError
from weft.merging.dense import merge_dense
from weft.merging.low_rank import cut
from weft.merging.sources import Merged, Sources, shares, widest
from weft.types import Factors, Site


def fisher(
    sources: Sources,
    *,
    fisher: Sequence[Mapping[Site, Float[Tensor, "O _"]]],
    normalize: bool = True,
    floor: float = 1e-6,
    rank: int | None = None,
) -> Merged:
    """The mean of deltas with the Fisher diagonals of every adapter as weights.

    `fisher` has one mapping per adapter, as `weft.host.fisher.fisher_diagonal` collects: [O, I] for deltas,
    or [O, R] for B at a site whose A all adapters share. A site that an adapter lacks needs one too: it is
    sure of 0. Raises ShapeError, WeightsError and ConfigError for what does not fit, before any work.
    """
    shares(sources, "fisher")
    if not floor > 0:
        raise ConfigError(f"floor is {floor}, it should be above 0, so that no entry is without weight")
    if len(fisher) != len(sources):
        raise ShapeError(f"{len(fisher)} mappings of Fisher diagonals for {len(sources)} adapters")
    for k, of_sites in enumerate(fisher):
        for site in sources.sites:
            _check(sources, k, of_sites, site)
    on_b = {site for site in sources.sites if _on_b(fisher[0][site], site)}
    for site in sources.sites:
        if any(_on_b(of_sites[site], site) != (site in on_b) for of_sites in fisher):
            raise ShapeError(f"{site.path} has the Fisher of B for one adapter and of the delta for another")
        if site in on_b:
            _check_shared(sources, site)
    means = [_mean(of_sites, sources) if normalize else 1.0 for of_sites in fisher]

    def average(site: Site, value_KOI: Tensor, rows: slice) -> Tensor:
        total, weight = torch.zeros_like(value_KOI[0]), torch.zeros_like(value_KOI[0])
        for of_sites, mean, w, value in zip(fisher, means, sources.weights[site], value_KOI, strict=True):
            sure = w * (of_sites[site][rows].to(value) / mean).clamp(min=floor)
            total += sure * value
            weight += sure
        return total / weight

    dense = [site for site in sources.sites if site not in on_b]
    merged = merge_dense(
        Sources(sources.adapters, {site: sources.weights[site] for site in dense}), rank, average
    )
    for site in sorted(on_b):
        factors = [a.factors.get(site) for a in sources.adapters]
        some = next(f for f in factors if f is not None)
        zeros_OR = torch.zeros_like(some.b_OR, dtype=torch.float64)
        b_KOR = torch.stack([zeros_OR if f is None else f.scaling * f.b_OR.double() for f in factors])
        dtype = widest(sources, site)
        b_OR = average(site, b_KOR, slice(0, site.out_features)).to(dtype)
        merged.factors[site], merged.lost[site] = cut(Factors(some.a_RI.to(dtype), b_OR, 1.0), rank, dtype)
    return merged


def _on_b(f: Tensor, site: Site) -> bool:
    return f.shape[1] != site.in_features


def _mean(of_sites: Mapping[Site, Tensor], sources: Sources) -> float:
    used = [of_sites[site] for site in sources.sites]
    return sum(float(f.double().sum()) for f in used) / sum(f.numel() for f in used)


def _check(sources: Sources, k: int, of_sites: Mapping[Site, Tensor], site: Site) -> None:
    name = sources.adapters[k].name
    if site not in of_sites:
        raise ShapeError(
            f"the Fisher diagonals of {name} lack {site.path}; collect them at every merged site"
        )
    f = of_sites[site]
    ranks = {a.factors[site].a_RI.shape[0] for a in sources.adapters if site in a.factors}
    if f.dim() != 2 or f.shape[0] != site.out_features or f.shape[1] not in {site.in_features, *ranks}:
        raise ShapeError(
            f"the Fisher diagonal of {name} at {site.path} is {tuple(f.shape)}, expected "
            f"{(site.out_features, site.in_features)}, or [{site.out_features}, R] for a shared A"
        )
    if not torch.isfinite(f).all() or (f < 0).any():
        raise WeightsError(f"the Fisher diagonal of {name} at {site.path} should be finite and not negative")
    if not any(of_sites[s].any() for s in sources.sites if s in of_sites):
        raise WeightsError(f"the Fisher diagonals of {name} are zero everywhere; it learned from no example")


def _check_shared(sources: Sources, site: Site) -> None:
    a = [adapter.factors[site].a_RI for adapter in sources.adapters if site in adapter.factors]
    if not all(torch.equal(a[0], other) for other in a[1:]):
        raise ShapeError(
            f"{site.path} has a Fisher of B, which needs one A for all adapters, and theirs differ"
        )
