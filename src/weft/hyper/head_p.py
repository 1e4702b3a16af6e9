"""Head P, Program-as-Weights' mapper: every layer mixes the same N bases of its module type.

Program-as-Weights (arXiv 2607.02512), the mapper:

    A = sum_n alpha_n A_n        B = sum_n beta_n B_n        [alpha; beta] = H_m z + [1/sqrt(N); 0]

N pairs of bases A_n, B_n per module type and size, shared by all layers; only 2 N numbers per site vary with
the cue. Departs from the paper in: the coefficients come from the trunk's latent of each site, not from one
map of the cue to all of them; H_m starts at 0, so B is exactly 0 at the start and A is the mean of its bases
times sqrt(N), spread as PEFT spreads one.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.hyper.groups import Group
from weft.hyper.head import AbstractHead, kaiming, zero_linear


class HeadP(AbstractHead):
    """Linear(F -> 2 N) per group over N learned bases [R, I] and [R, O]."""

    def __init__(self, groups: Sequence[Group], *, head_in: int, rank: int, bases: int) -> None:
        super().__init__()
        self.bases = bases
        self.linear = nn.ModuleDict()
        for g in groups:
            linear = zero_linear(head_in, 2 * bases, bias=True)
            with torch.no_grad():
                linear.bias[:bases] = 1 / math.sqrt(bases)
            self.linear[g.name] = linear
        self.a = nn.ParameterDict({g.name: kaiming(bases, rank, g.in_features) for g in groups})
        self.b = nn.ParameterDict({g.name: kaiming(bases, g.out_features, rank) for g in groups})

    def queries(self, x_BSW: Float[Tensor, "B S W"]) -> Float[Tensor, "B S Q W"]:
        """One query per site: the trunk as it is."""
        return x_BSW[:, :, None]

    def emit(
        self, group: Group, z_BLQF: Float[Tensor, "B L Q F"]
    ) -> tuple[Float[Tensor, "B L R I"], Float[Tensor, "B L R O"]]:
        """A and transposed B of one group, each one product with the flattened bases."""
        alpha_BLN, beta_BLN = self.linear[group.name](z_BLQF.flatten(2).contiguous()).chunk(2, -1)
        a_NRI, b_NRO = self.a[group.name], self.b[group.name].mT
        a_BLRI = (alpha_BLN @ a_NRI.flatten(1)).unflatten(-1, a_NRI.shape[1:])
        return a_BLRI, (beta_BLN @ b_NRO.flatten(1)).unflatten(-1, b_NRO.shape[1:])
