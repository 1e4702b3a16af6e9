"""The low-rank kernels: each computes sum_k w_k B_k A_k x for one kind of assignment, with autograd.

None of them expands an adapter over tokens; what they keep for the backward is x and R numbers per token
and adapter. `plan.py` calls them, `choose.py` says which.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

_ALIGNED = 16
"""Bytes that every stride of `grouped_mm` must be a multiple of."""


def single(
    x_BTI: Float[Tensor, "B T I"], a_RI: Float[Tensor, "R I"], b_OR: Float[Tensor, "O R"]
) -> Float[Tensor, "B T O"]:
    """One adapter on every token."""
    return F.linear(F.linear(x_BTI, a_RI), b_OR)


def side_by_side(
    output: Float[Tensor, "*B O"],
    x: Float[Tensor, "*B I"],
    a_IM: Float[Tensor, "I M"],
    b_MO: Float[Tensor, "M O"],
    scale_BM: Float[Tensor, "B M"] | None,
) -> Float[Tensor, "*B O"]:
    """The output of a site plus adapters that lie side by side, M = K R, each row with its own weights.

    One token per row: two GEMMs that read every factor once. Without weights all are 1. Written into
    `output`, where its type and layout allow; no gradient.
    """
    u_BM = torch.mm(x.reshape(-1, x.shape[-1]).to(a_IM.dtype), a_IM)
    if scale_BM is not None:
        u_BM.mul_(scale_BM)
    if output.dtype == u_BM.dtype and output.is_contiguous():
        output.view(-1, output.shape[-1]).addmm_(u_BM, b_MO.to(u_BM.dtype))  # autocast has made u smaller
        return output
    return (output + (u_BM @ b_MO).view(output.shape)).to(output.dtype)


def apart(
    output: Float[Tensor, "*B O"],
    x: Float[Tensor, "*B I"],
    a_KIR: Float[Tensor, "K I R"],
    b_KRO: Float[Tensor, "K R O"],
    places: tuple[Int[Tensor, " M"], Int[Tensor, " B"], Bool[Tensor, " M"]] | None,
) -> Float[Tensor, "*B O"]:
    """The output of a site plus adapters that act on some rows each, M = K C: C places for every adapter.

    One token per row. `places` says whose token is at each, where each row's token is, and which places get
    zeros; None where row i is at place i. Reads every factor once, as `side_by_side` does, for a K-th of its
    multiplications. Written into `output`, where its type and layout allow; no gradient.
    """
    x_BI = x.reshape(-1, x.shape[-1]).to(a_KIR.dtype)
    adapters = len(a_KIR)
    if places is None:
        u_KCR = torch.bmm(x_BI.view(adapters, -1, x_BI.shape[-1]), a_KIR)
        if output.dtype == u_KCR.dtype and output.is_contiguous():
            output.view(adapters, -1, output.shape[-1]).baddbmm_(u_KCR, b_KRO.to(u_KCR.dtype))
            return output
        y_BO = torch.bmm(u_KCR, b_KRO)
    else:
        take_M, back_B, base_M = places
        u_KCR = torch.bmm(x_BI.index_select(0, take_M).view(adapters, -1, x_BI.shape[-1]), a_KIR)
        u_KCR.masked_fill_(base_M.view(adapters, -1, 1), 0)
        y_BO = torch.bmm(u_KCR, b_KRO).flatten(0, 1).index_select(0, back_B)
    return (output + y_BO.view(output.shape)).to(output.dtype)


def bmm(
    x_BTI: Float[Tensor, "B T I"],
    a_BRI: Float[Tensor, "B R I"],
    b_BOR: Float[Tensor, "B O R"],
    base_B: Bool[Tensor, " B"] | None = None,
) -> Float[Tensor, "B T O"]:
    """Adapter i on row i; rows where `base_B` is true get zeros."""
    u_BTR = torch.bmm(x_BTI, a_BRI.mT)
    if base_B is not None:
        u_BTR = u_BTR.masked_fill(base_B[:, None, None], 0)
    return torch.bmm(u_BTR, b_BOR.mT)


def concat(
    x_BTI: Float[Tensor, "B T I"],
    a_KRI: Float[Tensor, "K R I"],
    b_KOR: Float[Tensor, "K O R"],
    weight_BTK: Float[Tensor, "#B #T K"],
) -> Float[Tensor, "B T O"]:
    """Two GEMMs over the K adapters side by side, with the weights multiplied in between."""
    u_BTKR = F.linear(x_BTI, a_KRI.flatten(0, 1)).unflatten(-1, a_KRI.shape[:2])
    return F.linear(_weighed(u_BTKR, weight_BTK[..., None]).flatten(-2), _side_by_side(b_KOR))


def average(
    x_BTI: Float[Tensor, "B T I"],
    a_KRI: Float[Tensor, "K R I"],
    b_KOR: Float[Tensor, "K O R"],
    weight_BTK: Float[Tensor, "#B #T K"],
) -> Float[Tensor, "B T O"]:
    """(sum_k w_k B_k)(sum_k w_k A_k) x, as SMEAR averages (Muqeeth et al. 2023, arXiv 2306.03745, section 3).

    Weights that differ between tokens never form the averaged factors: A_k x is averaged instead, and B is
    applied as in `concat`.
    """
    if weight_BTK.shape[1] == 1:
        weight_BK = weight_BTK[:, 0]
        a_BRI = (weight_BK @ a_KRI.flatten(1)).unflatten(1, a_KRI.shape[1:])
        b_BOR = (weight_BK @ b_KOR.flatten(1)).unflatten(1, b_KOR.shape[1:])
        return single(x_BTI, a_BRI[0], b_BOR[0]) if len(weight_BK) == 1 else bmm(x_BTI, a_BRI, b_BOR)
    u_BTKR = F.linear(x_BTI, a_KRI.flatten(0, 1)).unflatten(-1, a_KRI.shape[:2])
    u_BTR = _weighed(u_BTKR, weight_BTK[..., None]).sum(-2)
    u_BTKR = u_BTR[..., None, :] * weight_BTK[..., None]
    return F.linear(u_BTKR.flatten(-2), _side_by_side(b_KOR))


def grouped(
    x_NI: Float[Tensor, "N I"],
    a_KRI: Float[Tensor, "K R I"],
    b_KOR: Float[Tensor, "K O R"],
    order_M: Int[Tensor, " M"],
    ends_K: Int[Tensor, " K"],
    weight_M: Float[Tensor, " M"] | None,
) -> Float[Tensor, "N O"]:
    """Each adapter on its own tokens, k = M / N adapters per token, by `torch.nn.functional.grouped_mm`.

    `order_M` lists the M choices (token n's j-th choice is n * k + j) sorted by adapter, `ends_K` says where
    each adapter's stretch ends, `weight_M` weighs the choices in that order. Takes float32, bfloat16 and
    float16; sizes that `grouped_mm` cannot address are padded with zeros.
    """
    tokens, out_features = x_NI.shape[0], b_KOR.shape[1]
    k = order_M.shape[0] // tokens
    token_M = order_M if k == 1 else order_M // k
    a_KRI = _pad(a_KRI, 1, 2)
    b_KOR = _pad(b_KOR, 1, 2)
    u_MR = F.grouped_mm(_pad(x_NI, 1).index_select(0, token_M), a_KRI.mT, offs=ends_K)
    if weight_M is not None:
        u_MR = _weighed(u_MR, weight_M[:, None])
    y_MO = F.grouped_mm(u_MR, b_KOR.mT, offs=ends_K)
    # Both pass whole gradients back; grouped_mm refuses the expanded one that y.sum() would send.
    if k == 1:
        return torch.empty_like(y_MO).index_copy(0, token_M, y_MO)[:, :out_features]
    return y_MO.new_zeros(tokens, y_MO.shape[1]).index_add(0, token_M, y_MO)[:, :out_features]


def _weighed(u: Tensor, weight: Tensor) -> Tensor:
    """U times its weight, and 0 where the weight is 0: also where huge factors made u infinite or NaN.

    A row that gives an adapter no weight is then untouched by it. The gradient of a weight of 0 stays.
    """
    weighed = u * weight
    return weighed.masked_fill((weight == 0) & ~torch.isfinite(weighed), 0)


def _side_by_side(b_KOR: Tensor) -> Tensor:
    return b_KOR.transpose(0, 1).flatten(1)


def _pad(tensor: Tensor, *dims: int) -> Tensor:
    """Zeros at the end of each of `dims`, up to the next size that `grouped_mm` can address."""
    pads = [0] * (2 * tensor.dim())
    for dim in dims:
        pads[2 * (tensor.dim() - dim) - 1] = -tensor.shape[dim] % (_ALIGNED // tensor.element_size())
    return F.pad(tensor, pads) if any(pads) else tensor
