"""Whether generated adapters differ: a collapsed hypernetwork writes nearly the same one for every task."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from weft.types import Bank


@torch.no_grad()
def cosines(bank: Bank) -> Float[Tensor, "K K"]:
    """Cosine of the angle between the deltas of every two adapters of a bank, in float64.

    `weft.adapters.cosine` for all pairs at once: per site, tr((B_x A_x)^T B_y A_y) is the sum over the ranks
    of (B_x^T B_y) * (A_x A_y^T), and both factors of all pairs are one matrix product each. 0 where one of
    the two is zero.
    """
    count = len(bank)
    inner_KK = torch.zeros(count, count, dtype=torch.float64)
    for site in bank.sites:
        a_PI = bank.a[site].double().cpu().flatten(0, 1)
        b_PO = bank.b[site].double().cpu().mT.flatten(0, 1)
        gram_PP = (a_PI @ a_PI.mT) * (b_PO @ b_PO.mT)
        inner_KK += gram_PP.unflatten(1, (count, -1)).sum(-1).unflatten(0, (count, -1)).sum(1)
    norm_K = inner_KK.diagonal().clamp(min=0).sqrt()
    norm_K = torch.where(norm_K > 0, norm_K, 1.0)  # of a zero adapter, every inner product is 0 too
    return inner_KK / norm_K[:, None] / norm_K


def mean_cosine(bank: Bank) -> float:
    """Mean cosine over the pairs of different adapters: 1 means one adapter for all. Needs two or more."""
    count = len(bank)
    assert count > 1
    cosine_KK = cosines(bank)
    return float((cosine_KK.sum() - cosine_KK.trace()) / (count * (count - 1)))
