"""Head Z, Zhyper: A and B are learned once per site and shared by all cues; only the r x r core is generated.

Zhyper (arXiv 2510.19733):

    delta W = B diag(c) A   or   B C A        c or C = H_m z

Departs from the paper in: H_m starts at 0, so delta W is exactly 0 at the start; A starts as PEFT starts it,
B likewise with fan-in R. The core is folded into B, so the result is an ordinary LoRA.
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from weft.hyper.groups import Group
from weft.hyper.head import AbstractHead, kaiming, zero_linear


class HeadZ(AbstractHead):
    """Linear(F -> R) (diagonal core) or Linear(F -> R * R) (full core) per group."""

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        head_in: int,
        rank: int,
        core: Literal["diagonal", "full"] = "diagonal",
    ) -> None:
        super().__init__()
        self.rank = rank
        self.core = core
        size = rank if core == "diagonal" else rank * rank
        self.linear = nn.ModuleDict({g.name: zero_linear(head_in, size, bias=True) for g in groups})
        self.a = nn.ParameterDict({g.name: kaiming(len(g.sites), rank, g.in_features) for g in groups})
        self.b = nn.ParameterDict({g.name: kaiming(len(g.sites), g.out_features, rank) for g in groups})

    def queries(self, x_BSW: Float[Tensor, "B S W"]) -> Float[Tensor, "B S Q W"]:
        """One query per site: the trunk as it is."""
        return x_BSW[:, :, None]

    def emit(
        self, group: Group, z_BLQF: Float[Tensor, "B L Q F"]
    ) -> tuple[Float[Tensor, "B L R I"], Float[Tensor, "B L R O"]]:
        """The shared A, and transposed B with the core multiplied in."""
        core_BLN = self.linear[group.name](z_BLQF.flatten(2).contiguous())
        a_LRI, b_LRO = self.a[group.name], self.b[group.name].mT
        a_BLRI = a_LRI.expand(core_BLN.shape[0], *a_LRI.shape)
        if self.core == "diagonal":
            return a_BLRI, core_BLN[..., None] * b_LRO
        return a_BLRI, core_BLN.unflatten(-1, (self.rank, self.rank)).mT @ b_LRO
