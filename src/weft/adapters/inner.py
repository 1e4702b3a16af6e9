"""Inner products of adapters as vectors: all their deltas, laid end to end.

    <X, Y> = sum over sites  s_x s_y tr((B_x A_x)^T B_y A_y) = s_x s_y sum_ij (B_x^T B_y)_ij (A_x A_y^T)_ij

O(R^2 (I + O)) per site instead of O(R I O), and unchanged under (B M, M^-1 A): it sees deltas, not factors.
Computed in float64, so that nearly equal adapters keep a meaningful distance.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import BaseMismatchError, ShapeError
from weft.types import Adapter


@torch.no_grad()
def inner(x: Adapter, y: Adapter) -> float:
    """Frobenius inner product of two adapters; a site that one of them lacks counts as zero.

    Raises BaseMismatchError for adapters of different bases, ShapeError for one module path in two sizes.
    """
    if x.base and y.base and x.base != y.base:
        raise BaseMismatchError(f"{x.name} and {y.name} belong to different bases: {x.base} and {y.base}")
    sites = x.factors.keys() | y.factors.keys()
    if len({site.path for site in sites}) < len(sites):
        raise ShapeError(f"one module path has different sizes in {x.name} and {y.name}")
    total = 0.0
    for site in sorted(x.factors.keys() & y.factors.keys()):
        a_x, b_x, scale_x = x.factors[site]
        a_y, b_y, scale_y = y.factors[site]
        gram = (b_x.double().mT @ b_y.double()) * (a_x.double() @ a_y.double().mT)
        total += scale_x * scale_y * float(gram.sum())
    return total


def norm(x: Adapter) -> float:
    """Frobenius norm of an adapter's deltas.

    Args:
        x: The adapter.

    Example:
        >>> from weft.adapters import norm
        >>> norm(weft.load("weft/letters-adapters/reverse")) > 0
        True
    """
    return math.sqrt(max(inner(x, x), 0.0))


def cosine(x: Adapter, y: Adapter) -> float:
    """Cosine of the angle between two adapters; 0 when one of them is zero. Raises what `inner` raises.

    Args:
        x: One adapter.
        y: The other; sites that one of them lacks count as zeros.

    Example:
        >>> from weft.adapters import cosine
        >>> a = weft.load("weft/letters-adapters/reverse")
        >>> round(cosine(a, a), 6)
        1.0
    """
    length = norm(x) * norm(y)
    return inner(x, y) / length if length else 0.0


def squared_norms(a_KRI: Float[Tensor, "K R I"], b_KOR: Float[Tensor, "K O R"]) -> Float[Tensor, " K"]:
    """|| B A ||_F^2 of the deltas of K adapters at one site, in their own precision and differentiable."""
    return ((b_KOR.mT @ b_KOR) * (a_KRI @ a_KRI.mT)).sum((1, 2))
