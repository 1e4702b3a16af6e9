"""Sign election and disjoint mean: the second half of TIES, shared by all methods that end with it.

    sign   = sign(sum_k w_k tau_k)                              elected for every entry
    merged = sum_{k: sign(tau_k) = sign} w_k tau_k / sum_{k: sign(tau_k) = sign} w_k

Yadav et al. 2023, "TIES-Merging", its second and third step (arXiv 2306.01708). Weights are shares: they
vote and they average, and their scale cancels.

Departs from the paper in: weights (it has equal ones); an exact tie elects plus, not the sign of the whole
model.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def disjoint_mean(tau_KOI: Float[Tensor, "K O I"], weight_K: tuple[float, ...]) -> Float[Tensor, "O I"]:
    """The weighted mean over the entries that carry the elected sign; 0 where there are none."""
    w_K11 = tau_KOI.new_tensor(weight_K)[:, None, None]
    weighted_KOI = w_K11 * tau_KOI
    elected_OI = torch.where(weighted_KOI.sum(0) >= 0, 1.0, -1.0).to(tau_KOI)
    agrees_KOI = tau_KOI.sign() == elected_OI
    share_OI = (w_K11 * agrees_KOI).sum(0)
    merged_OI = torch.where(agrees_KOI, weighted_KOI, 0.0).sum(0)
    return torch.where(share_OI > 0, merged_OI / share_OI.clamp(min=torch.finfo(share_OI.dtype).tiny), 0.0)


def weighted_sum(tau_KOI: Float[Tensor, "K O I"], weight_K: tuple[float, ...]) -> Float[Tensor, "O I"]:
    """Sum over k of w_k tau_k."""
    return torch.einsum("koi,k->oi", tau_KOI, tau_KOI.new_tensor(weight_K))
