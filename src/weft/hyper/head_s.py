"""Head S of Text-to-LoRA: one linear map per module type emits one row of A or one column of B at a time.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3, size S; r is the rank's index:

    A_r = (H_m tail(pos(x + u_mA, r)))[:I] + s_r * a_m        B_r = (H_m tail(pos(x + u_mB, r)))[:O]

pos rotates by r (RoFormer, Su et al. 2021) or adds a learned vector. Departs from the paper in: H_m starts at
0 and only A has a bias, so B is exactly 0 at the start. That one bias vector serves all ranks, multiplied by
s_r, row r of a Walsh matrix of +-1, or all rows of A would start alike.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.hyper.groups import Group
from weft.hyper.head import AbstractHead, kaiming, zero_linear


class HeadS(AbstractHead):
    """Linear(F -> max(I, O)) per group, run once per rank for A and once per rank for B."""

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        latent: int,
        head_in: int,
        rank: int,
        position: Literal["rotary", "learned"] = "rotary",
    ) -> None:
        super().__init__()
        self.rank = rank
        self.repeats = [len(g.sites) for g in groups]
        self.role_GQW = nn.Parameter(torch.randn(len(groups), 2, latent))
        self.norm = nn.LayerNorm(latent)
        self.position_RW = nn.Parameter(torch.randn(rank, latent)) if position == "learned" else None
        self.linear = nn.ModuleDict(
            {g.name: zero_linear(head_in, max(g.in_features, g.out_features), bias=False) for g in groups}
        )
        self.a = nn.ParameterDict({g.name: kaiming(g.in_features) for g in groups})

    def queries(self, x_BSW: Float[Tensor, "B S W"]) -> Float[Tensor, "B S Q W"]:
        """2 R queries per site: the ranks of A, then the ranks of B."""
        role_GQW = self.norm(self.role_GQW)
        role_SQW = torch.cat([role.expand(n, -1, -1) for role, n in zip(role_GQW, self.repeats, strict=True)])
        x_BSQW = x_BSW[:, :, None] + role_SQW
        if self.position_RW is None:
            return rotate(x_BSQW, self.rank).flatten(2, 3)
        return (x_BSQW[..., None, :] + self.position_RW).flatten(2, 3)

    def emit(
        self, group: Group, z_BLQF: Float[Tensor, "B L Q F"]
    ) -> tuple[Float[Tensor, "B L R I"], Float[Tensor, "B L R O"]]:
        """A and transposed B of one group in one matrix product."""
        out_BMN = self.linear[group.name](z_BLQF.flatten(1, 2))
        a_BLRN, b_BLRN = out_BMN.unflatten(1, (-1, 2, self.rank)).unbind(2)
        bias_I = self.a[group.name]
        start_RI = walsh(self.rank, group.in_features).to(bias_I) * bias_I
        return a_BLRN[..., : group.in_features] + start_RI, b_BLRN[..., : group.out_features]


def rotate(x: Float[Tensor, "*N W"], rank: int) -> Float[Tensor, "*N R W"]:
    """`rank` copies of x, copy r turned by r * 10000^(-2i/W) in the plane of coordinates i and i + W/2."""
    half = x.shape[-1] // 2
    speed = 10000 ** (-torch.arange(half, device=x.device) / half)
    angle_RH = torch.arange(rank, device=x.device)[:, None] * speed
    cos, sin = angle_RH.cos().to(x.dtype), angle_RH.sin().to(x.dtype)
    first, second = x[..., None, :half], x[..., None, half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def walsh(rows: int, columns: int) -> Float[Tensor, "R I"]:
    """+-1 by the parity of the bits that row and column index share; rows of a full period are orthogonal."""
    shared = torch.arange(rows)[:, None] & torch.arange(columns)
    odd = torch.zeros_like(shared)
    while shared.any():
        odd, shared = odd ^ (shared & 1), shared >> 1
    return 1.0 - 2.0 * odd
