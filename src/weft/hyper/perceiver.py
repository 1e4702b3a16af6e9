"""Hidden states of a text -> A and B of every site, by R queries per site that look at them.

Perceiver (Jaegle et al. 2021, arXiv 2103.03206) as Doc-to-LoRA (Charakorn et al. 2026, arXiv 2602.15902) uses
it; s is a site, q one of its R queries, h_m what layer m of the frozen base says of the text:

    x_t = P norm(sum_m mix_sm norm(h_mt)) + pos(t) + u_s
    z_q = mlp(attend(query_q + u_s, x))        z_q <- c z_q / |z_q|
    A_q = H_s z_q + a_sq + f_s row(sum_t p_qt norm(x_s(t)))   p_q = softmax_t(K z_q . x_t)
    B_q = sigmoid(g_s z_q) G_s z_q                            G_s = 0 at the start

x_s(t) is what the site itself reads of the text, whitened (whiten.py): a row of A can point at a token, so
that it answers where a later prompt holds that token.

Departs from the papers in: this pointer; query q begins by looking at the q-th part of the text, so that
queries do not all start alike; a gate per query lets it say nothing of a text in which there is nothing; a
site reads a learned mix of all layers, that after its own to begin with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import Config
from weft.errors import ConfigError
from weft.hyper.groups import group_sites
from weft.hyper.head import kaiming
from weft.hyper.made import Made
from weft.hyper.states import Inputs, StateMix
from weft.hyper.whiten import Whitening
from weft.types import Site


class PerceiverConfig(Config):
    """One adapter per chunk; adapters of several chunks stand side by side."""

    kind: Literal["perceiver"] = "perceiver"
    rank: PositiveInt = 8
    """R, queries per site and chunk."""
    scaling: float = Field(default=2.0, gt=0)
    """Of the adapters that it makes."""
    latent: int = Field(default=128, ge=16, multiple_of=4)
    """Width of the network."""
    heads: PositiveInt = 4
    """Of its attention."""
    blocks: PositiveInt = 1
    """Layers of attention."""
    norm: float = Field(default=2.0, gt=0)
    """c, the L2 norm of the latents that the heads read."""


class Perceiver(nn.Module):
    """States and mask to the factors of all sites, before scaling. Raises ConfigError for odd head sizes."""

    def __init__(self, config: PerceiverConfig, sites: Iterable[Site], *, depth: int, width: int) -> None:
        super().__init__()
        if config.latent % config.heads:
            raise ConfigError(f"latent {config.latent} is no multiple of {config.heads} heads")
        self.config = config
        self.groups = group_sites(sites)
        self.sites = ordered = tuple(site for group in self.groups for site in group.sites)
        """The sites that it makes adapters for, in the order of its groups."""
        latent, rank = config.latent, config.rank
        self.mix = StateMix(ordered, depth=depth, width=width, latent=latent)
        self.query_RW = nn.Parameter(torch.randn(rank, latent) / math.sqrt(latent))
        self.blocks = nn.ModuleList(_Block(latent, config.heads) for _ in range(config.blocks))
        self.focus = nn.Parameter(torch.ones(()))
        """How strongly query q prefers the q-th part."""
        self.whiten = Whitening(ordered)
        self.gate_SW = nn.Parameter(torch.zeros(len(ordered), latent))
        self.point = nn.Linear(latent, latent, bias=False)
        self.point_S = nn.Parameter(torch.ones(len(ordered)))
        self.head_a, self.head_b, self.start_a = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for group in self.groups:
            count = len(group.sites)
            self.head_a[group.name] = nn.Parameter(torch.zeros(count, latent, group.in_features))
            self.head_b[group.name] = nn.Parameter(torch.zeros(count, latent, group.out_features))
            self.start_a[group.name] = kaiming(count, rank, group.in_features)

    def forward(
        self, states_BMTH: Float[Tensor, "B M T H"], inputs: Inputs, mask_BT: Bool[Tensor, "B T"]
    ) -> Made:
        """A and B of every site for every text."""
        x_BSTW = self.mix(states_BMTH)
        z_BSRW = (self.query_RW + self.mix.site_SW[:, None]).expand(x_BSTW.shape[0], -1, -1, -1)
        bias_BRT = self._focus(mask_BT)
        for block in self.blocks:
            z_BSRW = block(z_BSRW, x_BSTW, bias_BRT)
        z_BSRW = self.config.norm * F.normalize(z_BSRW, dim=-1)
        scores_BSRT = torch.einsum("bsrw,bstw->bsrt", self.point(z_BSRW), x_BSTW)
        point_BSRT = (scores_BSRT / math.sqrt(x_BSTW.shape[-1]) + bias_BRT[:, None]).softmax(-1)
        point_BSRT = point_BSRT * self.point_S[:, None, None]
        open_BSR = torch.sigmoid(torch.einsum("bsrw,sw->bsr", z_BSRW, self.gate_SW))
        made: Made = {}
        sizes = [len(group.sites) for group in self.groups]
        parts = (z_BSRW.split(sizes, 1), open_BSR.split(sizes, 1), point_BSRT.split(sizes, 1))
        for group, z, opened, point in zip(self.groups, *parts, strict=True):
            a_BSRI = torch.einsum("bsrw,swi->bsri", z, self.head_a[group.name]) + self.start_a[group.name]
            b_BSOR = torch.einsum("bsrw,swo->bsor", z, self.head_b[group.name]) * opened[:, :, None]
            for place, site in enumerate(group.sites):
                x_BTI = self.whiten.norm(site, inputs[site]) / math.sqrt(site.in_features)
                pointed_BRI = self.whiten.rows(site, point[:, place] @ x_BTI)
                made[site] = (a_BSRI[:, place] + pointed_BRI, b_BSOR[:, place])
        return made

    def _focus(self, mask_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B R T"]:
        """Added to the scores: how far token t lies from the part of query q; no score for padding."""
        rank = self.config.rank
        length_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
        part_BT = (torch.arange(mask_BT.shape[1], device=mask_BT.device) + 0.5) / length_B1 * rank - 0.5
        away_BRT = part_BT[:, None] - torch.arange(rank, device=mask_BT.device)[:, None]
        bias_BRT = -self.focus * away_BRT.square()
        return bias_BRT.masked_fill(~mask_BT[:, None], torch.finfo(bias_BRT.dtype).min)


class _Block(nn.Module):
    """Cross-attention from queries to tokens, then an MLP; both residual, normed before."""

    def __init__(self, latent: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_x, self.norm_z = (nn.LayerNorm(latent) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(latent, latent, bias=False) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(latent, 4 * latent), nn.SiLU(), nn.Linear(4 * latent, latent))

    def forward(self, z_BSRW: Tensor, x_BSTW: Tensor, bias_BRT: Tensor) -> Tensor:
        q, k, v = self.q(self.norm_q(z_BSRW)), self.k(self.norm_x(x_BSTW)), self.v(self.norm_x(x_BSTW))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in (q, k, v))
        looked = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_BRT[:, None, None].to(q.dtype))
        z_BSRW = z_BSRW + self.o(looked.transpose(2, 3).flatten(3))
        return z_BSRW + self.mlp(self.norm_z(z_BSRW))
