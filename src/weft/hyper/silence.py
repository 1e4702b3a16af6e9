"""Whether a chunk says anything: a factor in [0, 1) per chunk that is exactly 0 for idle ones.

    z = w . max_t mlp(x_t) + b        x_t = sum_(j<J) c_j * P norm(sum_m mix_m norm(h_(t-j)m))
    open = max(0, 2 sigmoid(z) - 1)

An idle chunk adds exact zeros, so whatever a text holds beside its facts, and however long it is, the weights
hold the facts alone. Where the factor is 0 the gradient is that of 2 sigmoid(z) - 1 all the same (the
straight-through estimator, Bengio et al. 2013, arXiv 1308.3432), so that a chunk can be heard again.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from weft.hyper.states import SHIFT, convolve

_OPEN = 2.0
"""b at the start: every chunk is heard."""


class Silence(nn.Module):
    """States of all layers to one factor per chunk."""

    def __init__(self, *, depth: int, width: int, latent: int) -> None:
        super().__init__()
        self.mix_M = nn.Parameter(torch.full((depth,), 1 / depth))
        self.project = nn.Linear(width, latent, bias=False)
        self.shift_JW = nn.Parameter(torch.randn(SHIFT, latent) / SHIFT**0.5)
        self.mlp = nn.Sequential(nn.Linear(latent, 2 * latent), nn.SiLU())
        self.out = nn.Linear(2 * latent, 1)
        nn.init.constant_(self.out.bias, _OPEN)

    def forward(
        self, states_BMTH: Float[Tensor, "B M T H"], mask_BT: Bool[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """How far each chunk is heard."""
        width = (states_BMTH.shape[-1],)
        mixed_BTH = torch.einsum("m,bmth->bth", self.mix_M, F.layer_norm(states_BMTH, width))
        x_BTW = convolve(self.project(F.layer_norm(mixed_BTH, width)), self.shift_JW)
        seen_BTW = self.mlp(x_BTW).masked_fill(~mask_BT[..., None], torch.finfo(x_BTW.dtype).min)
        soft_B = 2 * torch.sigmoid(self.out(seen_BTW.amax(1))[:, 0]) - 1
        return soft_B + (soft_B.clamp(min=0) - soft_B).detach()
