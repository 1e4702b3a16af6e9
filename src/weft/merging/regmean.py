"""RegMean: the one matrix whose outputs are nearest to those of every adapter on its own inputs.

    G_k = X_k^T X_k,   delta = sum_k delta_k w_k G_k (sum_k w_k G_k)^-1

Jin et al. 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models" (arXiv 2212.09849):
the closed form of the least squares in deltas, where the base's own weights cancel. As delta_k =
s_k B_k A_k, only A_k is multiplied: the result is exact, with the sum of the ranks.

Departs from the paper in: a ridge (this part of the mean diagonal is added to each diagonal), and a solve by
Cholesky instead of an inverse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, ShapeError, WeightsError
from weft.merging.low_rank import cut
from weft.merging.sources import Merged, Sources, shares, widest
from weft.types import Factors, Site


def regmean(
    sources: Sources,
    *,
    gram: Sequence[Mapping[Site, Float[Tensor, "I I"]]],
    off_diagonal: float = 0.9,
    ridge: float = 1e-6,
    rank: int | None = None,
) -> Merged:
    """The regression mean of deltas, from each adapter's Gram matrix of inputs at every site.

    `gram` has one mapping per adapter, as `weft.host.gram.input_gram` collects; `off_diagonal` is the paper's
    alpha. Raises ShapeError, WeightsError and ConfigError for what does not fit, before any work.
    """
    shares(sources, "regmean")
    if not 0 <= off_diagonal <= 1:
        raise ConfigError(f"off_diagonal is {off_diagonal}, it should be between 0 and 1")
    if not ridge > 0:
        raise ConfigError(f"ridge is {ridge}, it should be above 0, so that the sum can be inverted")
    if len(gram) != len(sources):
        raise ShapeError(f"{len(gram)} mappings of Gram matrices for {len(sources)} adapters")
    for adapter, of_sites in zip(sources.adapters, gram, strict=True):
        for site in sources.sites:
            _check(of_sites, site, adapter.name)
    factors, lost = {}, {}
    for site in sources.sites:
        joined = _site(sources, site, [of_sites[site] for of_sites in gram], off_diagonal, ridge)
        factors[site], lost[site] = cut(joined, rank, widest(sources, site))
    return Merged(factors, lost)


def _site(sources: Sources, site: Site, gram: Sequence[Tensor], off_diagonal: float, ridge: float) -> Factors:
    own = [
        w * _stable(g_II.double(), off_diagonal, ridge)
        for w, g_II in zip(sources.weights[site], gram, strict=True)
    ]
    root_II, failed = torch.linalg.cholesky_ex(torch.stack(own).sum(0))
    if failed:
        raise WeightsError(f"the Gram matrices at {site.path} are no X^T X: an eigenvalue is negative")
    dtype, a, b = widest(sources, site), [], []
    for adapter, g_II in zip(sources.adapters, own, strict=True):
        if site in adapter.factors:
            a_RI, b_OR, scaling = adapter.factors[site]
            a.append(torch.cholesky_solve(g_II @ a_RI.double().mT, root_II).mT)
            b.append(scaling * b_OR.double())
    return Factors(torch.cat(a).to(dtype), torch.cat(b, dim=1).to(dtype), 1.0)


def _stable(g_II: Tensor, off_diagonal: float, ridge: float) -> Tensor:
    diagonal_I = g_II.diagonal()
    whole = off_diagonal * g_II + (1.0 - off_diagonal) * torch.diag(diagonal_I)
    return whole + ridge * diagonal_I.mean() * torch.eye(len(g_II), dtype=g_II.dtype, device=g_II.device)


def _check(of_sites: Mapping[Site, Tensor], site: Site, name: str) -> None:
    if site not in of_sites:
        raise ShapeError(f"the Gram matrices of {name} lack {site.path}; collect them at every merged site")
    g_II = of_sites[site]
    if tuple(g_II.shape) != (site.in_features, site.in_features):
        raise ShapeError(f"the Gram matrix of {name} at {site.path} is {tuple(g_II.shape)}, expected [I, I]")
    if not torch.isfinite(g_II).all() or (g_II.diagonal() < 0).any() or not g_II.diagonal().sum() > 0:
        raise WeightsError(f"the Gram matrix of {name} at {site.path} is no X^T X of finite inputs")
