"""What networks that read a text take from the frozen base: a learned mix of its layers, per site.

    y_st = P norm(sum_m mix_sm norm(h_mt)) + u_s
    x_st = norm(y_st + sum_(j<J) c_j * y_s(t-j) + pos(t))

h_m is the hidden state after layer m, 0 the embedding. A site starts with what its own layer says. The short
convolution c over the J tokens before lets a token know whom it stands behind, whatever the base makes of it
(H3, Fu et al. 2022, arXiv 2212.14052, section 3: recall needs a shift beside a product).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from weft.types import Site

SHIFT = 4
"""J, how many tokens the convolution spans."""


Inputs = Mapping[Site, Float[Tensor, "B T _"]]
"""What every site reads of a text."""


class StateMix(nn.Module):
    """States of all layers to one latent per site and token."""

    def __init__(self, sites: tuple[Site, ...], *, depth: int, width: int, latent: int) -> None:
        super().__init__()
        self.mix_SM = nn.Parameter(torch.full((len(sites), depth), 1 / depth))
        with torch.no_grad():
            for place, site in enumerate(sites):
                self.mix_SM[place, min(max(site.layer, 0) + 1, depth - 1)] += 1
        self.site_SW = nn.Parameter(0.02 * torch.randn(len(sites), latent))
        """u, what a site is known by."""
        self.project = nn.Linear(width, latent, bias=False)
        self.shift_JW = nn.Parameter(torch.randn(SHIFT, latent) / SHIFT**0.5)

    def forward(self, states_BMTH: Float[Tensor, "B M T H"]) -> Float[Tensor, "B S T W"]:
        """One latent per text, site and token, of unit variance."""
        width = (states_BMTH.shape[-1],)
        mixed_BSTH = torch.einsum("sm,bmth->bsth", self.mix_SM, F.layer_norm(states_BMTH, width))
        y_BSTW = self.project(F.layer_norm(mixed_BSTH, width)) + self.site_SW[:, None]
        place_TW = positions(y_BSTW.shape[2], y_BSTW.shape[3], like=y_BSTW)
        return F.layer_norm(y_BSTW + convolve(y_BSTW, self.shift_JW) + place_TW, y_BSTW.shape[-1:])


def convolve(x: Float[Tensor, "*B T W"], shift_JW: Float[Tensor, "J W"]) -> Float[Tensor, "*B T W"]:
    """Every token with its J - 1 predecessors, feature by feature; nothing stands before the first."""
    before = F.pad(x, (0, 0, len(shift_JW) - 1, 0))
    parts = [shift_W * before[..., j : j + x.shape[-2], :] for j, shift_W in enumerate(shift_JW.flip(0))]
    return torch.stack(parts).sum(0)


def positions(tokens: int, width: int, *, like: Tensor) -> Float[Tensor, "T W"]:
    """Sines and cosines of the place in a text (Vaswani et al. 2017, section 3.5), of half the usual size."""
    speed_H = 10000 ** (-torch.arange(width // 2, device=like.device) / (width // 2))
    angle_TH = torch.arange(tokens, device=like.device)[:, None] * speed_H
    return 0.5 * torch.cat([angle_TH.sin(), angle_TH.cos()], -1).to(like.dtype)
