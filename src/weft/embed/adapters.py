"""The adapter itself as the embedding of its task: the cosine of the changes that two adapters make.

As TuPaTE (Zhou et al. 2022, arXiv 2210.11705) takes tuned parameters for a task embedding.

    <X, Y> = sum over sites of sum_ij (B_x^T B_y)_ij (A_x A_y^T)_ij        cos = <X, Y> / (|X| |Y|)

Adapters of one recipe share a part. With m the mean of a library, all of it is in the Gram matrix:

    <X - m, Y - m> = <X, Y> - mean_k <X, k> - mean_k <k, Y> + mean_kl <k, l>

Departs from the paper in: deltas instead of the raw factors, which are known only up to (B M, M^-1 A).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weft.adapters import in_float64, squared_norms
from weft.errors import BaseMismatchError, ShapeError
from weft.types import Adapter, Bank

_BLOCK = 2**23  # entries of a rank by rank product held at once, 64 MiB
_ZERO = 1e-13  # of a squared length, centring may leave this share by rounding alone

Adapters = Bank | Sequence[Adapter]


@torch.no_grad()
def inner_products(x: Adapters, y: Adapters) -> Float[Tensor, "Kx Ky"]:
    """Frobenius inner products of all deltas of x with all of y, in float64 on the CPU, without gradient.

    Ranks, scalings and sites may differ; a site that one lacks counts as zero. O(R^2 (I + O)) for each pair
    and site, a few at a time. Raises ShapeError for no adapters, NaN, or one module path in two sizes, and
    BaseMismatchError for adapters of different bases.
    """
    bank_x, bank_y = _bank(x), _bank(y)
    if bank_x.base and bank_y.base and bank_x.base != bank_y.base:
        raise BaseMismatchError(f"adapters of different bases: {bank_x.base} and {bank_y.base}")
    sites = bank_x.a.keys() | bank_y.a.keys()
    if len({site.path for site in sites}) < len(sites):
        raise ShapeError("one module path has different sizes in two adapters")
    total_KK = torch.zeros(len(bank_x), len(bank_y), dtype=torch.float64)
    for site in sorted(bank_x.a.keys() & bank_y.a.keys()):
        ax_KRI, bx_KRO = bank_x.a[site].double().cpu(), bank_x.b[site].double().cpu().mT
        ay_PI, by_PO = (
            bank_y.a[site].double().cpu().flatten(0, 1),
            bank_y.b[site].double().cpu().mT.flatten(0, 1),
        )
        step = max(1, _BLOCK // (ax_KRI.shape[1] * len(ay_PI)))
        for start in range(0, len(bank_x), step):
            some = slice(start, start + step)
            gram_KRP = (ax_KRI[some] @ ay_PI.mT) * (bx_KRO[some] @ by_PO.mT)
            total_KK[some] += gram_KRP.sum(1).unflatten(1, (len(bank_y), -1)).sum(2)
    return total_KK


@torch.no_grad()
def cosines(x: Adapters, y: Adapters | None = None, *, centre: bool = False) -> Float[Tensor, "Kx Ky"]:
    """Cosine of the angle between every adapter of x and every one of the library y (x itself unless given).

    `centre` first takes the library's mean delta off both. 0 where one of the two is zero (then).
    Unchanged under (B M, M^-1 A). Raises what `inner_products` raises.
    """
    bank_x = _bank(x)
    bank_y = bank_x if y is None else _bank(y)
    cross_KK = inner_products(bank_x, bank_y)
    yy_KK = cross_KK if y is None else inner_products(bank_y, bank_y)
    squares_x = cross_KK.diagonal() if y is None else _squares(bank_x)
    squares_y = yy_KK.diagonal()
    least_x, least_y = _ZERO * squares_x, _ZERO * squares_y
    if centre:
        to_mean_x, to_mean_y, mean = cross_KK.mean(1), yy_KK.mean(1), yy_KK.mean()
        cross_KK = cross_KK - to_mean_x[:, None] - to_mean_y + mean
        squares_x, squares_y = squares_x - 2 * to_mean_x + mean, squares_y - 2 * to_mean_y + mean
    scale_x = torch.where(squares_x > least_x, squares_x, torch.inf).rsqrt()
    scale_y = torch.where(squares_y > least_y, squares_y, torch.inf).rsqrt()
    return (cross_KK * scale_x[:, None] * scale_y).clamp(-1.0, 1.0)


def _bank(adapters: Adapters) -> Bank:
    if not len(adapters):
        raise ShapeError("there are no adapters to compare, the library is empty")
    bank = (
        adapters if isinstance(adapters, Bank) else Bank.stack([in_float64(adapter) for adapter in adapters])
    )
    for site in bank.sites:
        for factor in (bank.a[site], bank.b[site]):
            wrong = ~torch.isfinite(factor).flatten(1).all(1)
            if wrong.any():
                raise ShapeError(
                    f"{site.path} of adapter {bank.names[int(wrong.nonzero()[0])]} holds NaN or infinity"
                )
    return bank


def _squares(bank: Bank) -> Float[Tensor, " K"]:
    """Squared lengths, without the products of different adapters."""
    total_K = torch.zeros(len(bank), dtype=torch.float64)
    for site in bank.sites:
        a_KRI, b_KOR = bank.a[site].double().cpu(), bank.b[site].double().cpu()
        total_K += squared_norms(a_KRI, b_KOR)
    return total_K
