"""Head L of Text-to-LoRA: one linear map per module type emits all of A and B.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3, size L, with the Bias-HyperInit of
Beck et al. 2023:

    [A; B] = H_m z + [a_m; b_m]        at the start H_m = 0, b_m = 0, a_m as PEFT starts A

Departs from the paper in: with `tie_a` all cues share one learned A per site, and only B is emitted.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.hyper.groups import Group
from weft.hyper.head import AbstractHead, kaiming, zero_linear


class HeadL(AbstractHead):
    """Linear(F -> R * (I + O)) per group; with `tie_a` Linear(F -> R * O) and A a learned [L, R, I]."""

    def __init__(self, groups: Sequence[Group], *, head_in: int, rank: int, tie_a: bool = False) -> None:
        super().__init__()
        self.rank = rank
        self.linear = nn.ModuleDict()
        self.a = nn.ParameterDict()
        for g in groups:
            if tie_a:
                self.a[g.name] = kaiming(len(g.sites), rank, g.in_features)
            size_a = 0 if tie_a else rank * g.in_features
            linear = zero_linear(head_in, size_a + rank * g.out_features, bias=True)
            with torch.no_grad():
                linear.bias[:size_a] = kaiming(rank, g.in_features).flatten()[:size_a]
            self.linear[g.name] = linear

    def queries(self, x_BSW: Float[Tensor, "B S W"]) -> Float[Tensor, "B S Q W"]:
        """One query per site: the trunk as it is."""
        return x_BSW[:, :, None]

    def emit(
        self, group: Group, z_BLQF: Float[Tensor, "B L Q F"]
    ) -> tuple[Float[Tensor, "B L R I"], Float[Tensor, "B L R O"]]:
        """A and transposed B of one group in one matrix product."""
        out_BLN = self.linear[group.name](z_BLQF.flatten(2).contiguous())
        if group.name in self.a:
            a_LRI = self.a[group.name]
            return a_LRI.expand(out_BLN.shape[0], *a_LRI.shape), out_BLN.unflatten(-1, (self.rank, -1))
        flat_a, flat_b = out_BLN.split([self.rank * group.in_features, self.rank * group.out_features], -1)
        return flat_a.unflatten(-1, (self.rank, -1)), flat_b.unflatten(-1, (self.rank, -1))
