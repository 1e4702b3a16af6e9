"""Head M of Text-to-LoRA: A and B of a module type share one linear map, told apart by a learned role vector.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3, size M:

    A = (H_m tail(x + u_mA) + a_m)[:, :I]        B = (H_m tail(x + u_mB))[:, :O]

Departs from the paper in: H_m starts at 0 and only A has a bias, so B is exactly 0 at the start; the paper's
shared bias makes the first adapters random. The number of parameters is the same.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.hyper.groups import Group
from weft.hyper.head import AbstractHead, kaiming, zero_linear


class HeadM(AbstractHead):
    """Linear(F -> R * max(I, O)) per group, run once for A and once for B."""

    def __init__(self, groups: Sequence[Group], *, latent: int, head_in: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.repeats = [len(g.sites) for g in groups]
        self.role_GQW = nn.Parameter(torch.randn(len(groups), 2, latent))
        self.norm = nn.LayerNorm(latent)
        self.linear = nn.ModuleDict(
            {
                g.name: zero_linear(head_in, rank * max(g.in_features, g.out_features), bias=False)
                for g in groups
            }
        )
        self.a = nn.ParameterDict({g.name: kaiming(rank, g.in_features) for g in groups})

    def queries(self, x_BSW: Float[Tensor, "B S W"]) -> Float[Tensor, "B S Q W"]:
        """Two queries per site: for A, for B."""
        role_GQW = self.norm(self.role_GQW)
        role_SQW = torch.cat([role.expand(n, -1, -1) for role, n in zip(role_GQW, self.repeats, strict=True)])
        return x_BSW[:, :, None] + role_SQW

    def emit(
        self, group: Group, z_BLQF: Float[Tensor, "B L Q F"]
    ) -> tuple[Float[Tensor, "B L R I"], Float[Tensor, "B L R O"]]:
        """A and transposed B of one group in one matrix product."""
        out_BNM = self.linear[group.name](z_BLQF.flatten(1, 2))
        a_BLRN, b_BLRN = out_BNM.unflatten(1, (-1, 2)).unflatten(-1, (self.rank, -1)).unbind(2)
        return a_BLRN[..., : group.in_features] + self.a[group.name], b_BLRN[..., : group.out_features]
