"""The low-rank kernels: each computes sum_k w_k B_k A_k x for one kind of assignment, with autograd.

None of them expands an adapter over tokens; what they keep for the backward is x and R numbers per token
and adapter.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def concat(
    x_BTI: Float[Tensor, "B T I"],
    a_KRI: Float[Tensor, "K R I"],
    b_KOR: Float[Tensor, "K O R"],
    weight: Float[Tensor, "B T K"] | Float[Tensor, "B 1 K"],
) -> Float[Tensor, "B T O"]:
    """Two GEMMs over the K adapters side by side, with the weights multiplied in between."""
    K, R, I = a_KRI.shape
    u_BTKR = F.linear(x_BTI, a_KRI.reshape(K * R, I)).unflatten(-1, (K, R)) * weight[..., None]
    return F.linear(u_BTKR.flatten(-2), b_KOR.transpose(0, 1).reshape(-1, K * R))
