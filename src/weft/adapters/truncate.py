"""The best adapter of a lower rank, without ever forming a delta.

    B = Q_b R_b,  A^T = Q_a R_a,  s R_b R_a^T = U S V^T
    delta = (Q_b U) S (Q_a V)^T is its SVD; keeping the largest values is optimal (Eckart and Young, 1936).

The small SVD is of the size of the rank. It runs in float64, where it costs little.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ShapeError
from weft.types import Adapter, Factors


class Spectrum(NamedTuple):
    """SVD of one delta: delta = u_OR @ diag(s_R) @ v_IR^T, largest first."""

    u_OR: Float[Tensor, "O R"]
    s_R: Float[Tensor, " R"]
    v_IR: Float[Tensor, "I R"]


@torch.no_grad()
def spectrum(factors: Factors) -> Spectrum:
    """SVD of a delta from its factors, in float64; the largest entry of every column of `u_OR` is positive.

    That fixes the sign, which an SVD leaves open, so equal deltas give equal factors.
    """
    a_RI, b_OR, scaling = factors
    q_OR, r_b = torch.linalg.qr(b_OR.double())
    q_IR, r_a = torch.linalg.qr(a_RI.double().mT)
    u, s_R, vh = torch.linalg.svd(scaling * (r_b @ r_a.mT), full_matrices=False)
    u_OR, v_IR = q_OR @ u, q_IR @ vh.mT
    largest = u_OR.gather(0, u_OR.abs().argmax(0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(u_OR)
    return Spectrum(u_OR * sign, s_R, v_IR * sign)


def truncate(adapter: Adapter, rank: int) -> Adapter:
    """The adapter of at most `rank` per site that is nearest in the Frobenius norm.

    Sites whose rank is no larger stay as they are. The others get balanced factors (both hold the root of the
    singular values), scaling 1, in the dtype they had. Raises ShapeError for a rank below 1.

    Args:
        adapter: What is cut.
        rank: R, the most that a site keeps.

    Example:
        >>> from weft.adapters import truncate
        >>> truncate(weft.load("weft/letters-adapters/reverse"), 2).rank
        2
    """
    if rank < 1:
        raise ShapeError(f"an adapter needs a rank of at least 1, got {rank}")
    factors = {
        site: old if old.a_RI.shape[0] <= rank else _keep(old, rank) for site, old in adapter.factors.items()
    }
    return replace(adapter, factors=factors, provenance={**adapter.provenance, "truncated_to_rank": rank})


def truncation_error(adapter: Adapter, rank: int) -> float:
    """What `truncate` would lose: the norm of the difference over the norm of the adapter, 0 to 1."""
    lost = total = 0.0
    for site in adapter.sites:
        energy = spectrum(adapter.factors[site]).s_R.square()
        total += float(energy.sum())
        lost += float(energy[rank:].sum())
    return math.sqrt(lost / total) if total else 0.0


def _keep(factors: Factors, rank: int) -> Factors:
    u_OR, s_R, v_IR = spectrum(factors)
    root = s_R[:rank].sqrt()
    return Factors(
        (v_IR[:, :rank] * root).mT.contiguous().to(factors.a_RI.dtype),
        (u_OR[:, :rank] * root).to(factors.b_OR.dtype),
        1.0,
    )
