"""The heads of Text-to-LoRA as its authors' released networks have them: sizes L, M and S, to the number.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3; what is not in the paper stands in the
public code at github.com/SakanaAI/text-to-lora. H_m has one bias c_m for A and B alike; every layer l adds
an offset of its own, and a network trained to reconstruct z-scores multiplies by their spread first:

    L:  [A; B] = H_m tail(x) + c_m
    M:  A = (H_m tail(x + u_mA) + c_m)[:, :I]             B the same with u_mB, [:, :O]
    S:  A_r = (H_m tail(rotate(y + mlp2(y), r)) + c_m)[:I],  y = x + u_mA;  B_r the same with u_mB, [:O]

    A = A * s_lA + a_l        B = B * s_lB + b_l          (s only where the network says z-scores)

It stands beside heads L, M and S, which start with B at 0, because those numbers cannot be brought into them.
S runs the trunk's mlp2 twice, once here: `again` is a copy of it, since a head does not see the trunk.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.hyper.groups import Group
from weft.hyper.head import AbstractHead, kaiming, zero_linear
from weft.hyper.head_s import rotate
from weft.hyper.trunk import mlp

Size = Literal["L", "M", "S"]


class HeadPublished(AbstractHead):
    """One linear map per group, and a learned offset of A and B for every site."""

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        size: Size,
        latent: int,
        head_in: int,
        rank: int,
        dropout: float,
        bias: bool,
        z_scored: bool,
    ) -> None:
        super().__init__()
        self.size = size
        self.rank = rank
        self.repeats = [len(g.sites) for g in groups]
        self.linear = nn.ModuleDict(
            {g.name: zero_linear(head_in, _width(g, size, rank), bias=bias) for g in groups}
        )
        self.offset_a = nn.ParameterDict({g.name: kaiming(len(g.sites), rank, g.in_features) for g in groups})
        self.offset_b = nn.ParameterDict(
            {g.name: nn.Parameter(torch.zeros(len(g.sites), rank, g.out_features)) for g in groups}
        )
        scaled = groups if z_scored else ()
        self.scale_a = nn.ParameterDict({g.name: torch.ones_like(self.offset_a[g.name]) for g in scaled})
        self.scale_b = nn.ParameterDict({g.name: torch.ones_like(self.offset_b[g.name]) for g in scaled})
        if size != "L":
            self.role_GQW = nn.Parameter(torch.randn(len(groups), 2, latent))
            self.norm = nn.LayerNorm(latent)
        if size == "S":
            drop = nn.Dropout(dropout)
            self.again = nn.Sequential(nn.LayerNorm(latent), *mlp(latent, 4 * latent, latent, drop))

    def queries(self, x_BSW: Float[Tensor, "B S W"]) -> Float[Tensor, "B S Q W"]:
        """One query per site (L), two (M), or two per rank, the ranks of A first (S)."""
        if self.size == "L":
            return x_BSW[:, :, None]
        role_GQW = self.norm(self.role_GQW)
        role_SQW = torch.cat([role.expand(n, -1, -1) for role, n in zip(role_GQW, self.repeats, strict=True)])
        y_BSQW = x_BSW[:, :, None] + role_SQW
        if self.size == "M":
            return y_BSQW
        return rotate(y_BSQW + self.again(y_BSQW), self.rank).flatten(2, 3)

    def emit(
        self, group: Group, z_BLQF: Float[Tensor, "B L Q F"]
    ) -> tuple[Float[Tensor, "B L R I"], Float[Tensor, "B L R O"]]:
        """A and transposed B of one group in one matrix product."""
        out_BLQN = self.linear[group.name](z_BLQF.flatten(1, 2)).unflatten(1, z_BLQF.shape[1:3])
        if self.size == "L":
            sizes = [self.rank * group.in_features, self.rank * group.out_features]
            a_BLRI, b_BLRO = (
                flat.unflatten(-1, (self.rank, -1)) for flat in out_BLQN[:, :, 0].split(sizes, -1)
            )
        else:
            # M gives all ranks of a query at once, S one rank a query.
            out_BLQN = out_BLQN if self.size == "S" else out_BLQN.unflatten(-1, (self.rank, -1)).flatten(2, 3)
            a_BLRN, b_BLRN = out_BLQN.unflatten(2, (2, self.rank)).unbind(2)
            a_BLRI, b_BLRO = a_BLRN[..., : group.in_features], b_BLRN[..., : group.out_features]
        if group.name in self.scale_a:
            a_BLRI, b_BLRO = a_BLRI * self.scale_a[group.name], b_BLRO * self.scale_b[group.name]
        return a_BLRI + self.offset_a[group.name], b_BLRO + self.offset_b[group.name]


def _width(group: Group, size: Size, rank: int) -> int:
    if size == "L":
        return rank * (group.in_features + group.out_features)
    longest = max(group.in_features, group.out_features)
    return rank * longest if size == "M" else longest
