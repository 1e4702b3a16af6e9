"""Hidden states of a text -> a sum of outer products per site: a state that adds up, at a fixed cost.

Generative Adapter (Chen et al. 2024, arXiv 2411.05877), section 3; t runs over the tokens of all that was
read, so the state of two texts is the sum of theirs:

    S_s = sum_t g_t v_t k_t^T        A_s = row(K_s)    B_s = V_s S_s        V_s = 0 at the start
    k_t = sum_j c_j * K_s norm(x_s(t-j)), of unit length

x_s is what the site itself reads of the text, whitened (whiten.py), so keys lie where the queries A x of a
later prompt will lie. K [M, I] and V [O, M] are learned and belong to the site: adapters of all texts share
A, and adding texts is adding B. Departs from the paper in: no SVD over the whole sum (adding would be no sum
then); keys are made from what the site reads by a short convolution; a gate g says which tokens to keep.

With `copy_tokens` a site also points at tokens (pointer networks, Vinyals et al. 2015, arXiv 1506.03134):

    B_s = V_s S_s + c_s * sum_t g_t norm(h_0t) k_t^T        c_s = 0 at the start

h_0 is the embedding of the token, which a base with tied embeddings also compares its output with. So a token
is said again that no training has seen, where V_s S_s has to learn every one. `only` leaves V_s S_s out.
With `topics` there is one key more, which is 1 for every token, and a row of A that gives about 1 wherever it
is asked: what a text says is likelier to be said again, whatever stands before (a cache, Kuhn and De Mori
1990), weighed by c'_s in place of c_s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import Config
from weft.errors import ConfigError
from weft.hyper.groups import group_sites
from weft.hyper.head import kaiming
from weft.hyper.made import Made
from weft.hyper.states import SHIFT, Inputs, StateMix, convolve
from weft.hyper.whiten import Whitening
from weft.types import Site

_SHORTEST = 1e-6
"""Length below which a key points nowhere, and is set to 0."""


class AccumulatorConfig(Config):
    """One state for all chunks; the rank of its adapter never grows."""

    kind: Literal["accumulator"] = "accumulator"
    rank: PositiveInt = 64
    """M, the size of the state: so many keys can be told apart."""
    scaling: float = Field(default=2.0, gt=0)
    """Of the adapter that it makes."""
    latent: int = Field(default=128, ge=16, multiple_of=4)
    """Width of the network."""
    copy_tokens: bool | Literal["only"] = False
    """Point at tokens of the text, for a base with tied embeddings; sites have to write what it embeds. With
    `only` nothing else is written: of long texts V_s S_s is a large sum before it is a useful one."""
    topics: bool = False
    """Make tokens of the text likelier everywhere too; for `copy_tokens: only`. The rank is one more."""

    @model_validator(mode="after")
    def _topics_are_copied(self) -> AccumulatorConfig:
        if self.topics and self.copy_tokens != "only":
            raise ValueError("topics is for tokens that are copied; give copy_tokens: only")
        return self


class Accumulator(nn.Module):
    """States and mask to the factors of all sites, before scaling.

    Raises ConfigError for `copy_tokens` at a site whose output is not as wide as the residual stream.
    """

    def __init__(self, config: AccumulatorConfig, sites: Iterable[Site], *, depth: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.groups = group_sites(sites)
        self.sites = ordered = tuple(site for group in self.groups for site in group.sites)
        """The sites that it makes adapters for, in the order of its groups."""
        latent, rank = config.latent, config.rank
        self.mix = StateMix(ordered, depth=depth, width=width, latent=latent)
        self.whiten = Whitening(ordered)
        self.mlp = nn.Sequential(nn.Linear(latent, 4 * latent), nn.SiLU(), nn.Linear(4 * latent, latent))
        self.value_SWM = None
        if config.copy_tokens != "only":
            self.value_SWM = nn.Parameter(torch.randn(len(ordered), latent, rank) / latent**0.5)
        self.shift_SJM = nn.Parameter(torch.zeros(len(ordered), SHIFT, rank))
        with torch.no_grad():
            self.shift_SJM[:, 1] = 1  # a token is found by the one before it,
            self.mix.mix_SM[:, 0] += 2  # and what is found is the token, whatever stands around it
        self.gate_SW = nn.Parameter(torch.zeros(len(ordered), latent))
        if config.copy_tokens and (other := [site for site in ordered if site.out_features != width]):
            raise ConfigError(
                f"copy_tokens: {other[0].path} writes {other[0].out_features} features, the base has {width}"
            )
        self.copy_SO = nn.Parameter(torch.zeros(len(ordered), width)) if config.copy_tokens else None
        self.topic_SO = nn.Parameter(torch.zeros(len(ordered), width)) if config.topics else None
        self.start_a = nn.ParameterDict(
            {group.name: kaiming(len(group.sites), rank, group.in_features) for group in self.groups}
        )
        self.out_b = nn.ParameterDict(
            {
                group.name: nn.Parameter(torch.zeros(len(group.sites), group.out_features, rank))
                for group in self.groups
                if config.copy_tokens != "only"
            }
        )

    def forward(
        self, states_BMTH: Float[Tensor, "B M T H"], inputs: Inputs, mask_BT: Bool[Tensor, "B T"]
    ) -> Made:
        """A and B of every site for every text; A is the same for all texts."""
        return self.factors(self.accumulate(states_BMTH, inputs, mask_BT))

    def accumulate(
        self, states_BMTH: Float[Tensor, "B M T H"], inputs: Inputs, mask_BT: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B S V K"]:
        """The sum over tokens for every text and site, in M values by M keys; what adds up.

        With `copy_tokens` what embeds the tokens lies below the values, where there are any; with `topics`
        there is a key more, the last.
        """
        x_BSTW = self.mix(states_BMTH)
        x_BSTW = F.layer_norm(x_BSTW + self.mlp(x_BSTW), x_BSTW.shape[-1:])
        key_BSTM = torch.stack([self._keys(*one, inputs) for one in enumerate(self.sites)], 1)
        gate_BST = torch.sigmoid(torch.einsum("bstw,sw->bst", x_BSTW, self.gate_SW)) * mask_BT[:, None]
        parts = []
        if self.value_SWM is not None:
            value_BSTM = torch.einsum("bstw,swm->bstm", x_BSTW, self.value_SWM)
            parts.append(torch.einsum("bst,bstv,bstk->bsvk", gate_BST, value_BSTM, key_BSTM))
        if self.copy_SO is not None:
            h_BTH = F.layer_norm(states_BMTH[:, 0], states_BMTH.shape[-1:])
            parts.append(torch.einsum("bst,bth,bstk->bshk", gate_BST, h_BTH, key_BSTM))
        return torch.cat(parts, 2)

    def factors(self, state_BSVK: Float[Tensor, "B S V K"]) -> Made:
        """A and B of every site for every state."""
        made: Made = {}
        sizes = [len(group.sites) for group in self.groups]
        for group, state in zip(self.groups, state_BSVK.split(sizes, 1), strict=True):
            values, parts = 0, []
            if self.value_SWM is not None:
                values = self.config.rank
                parts.append(torch.einsum("sov,bsvk->bsok", self.out_b[group.name], state[:, :, :values]))
            if self.copy_SO is not None:
                places = [self.sites.index(site) for site in group.sites]
                weight_SOK = self.copy_SO[places, :, None].expand(-1, -1, self.config.rank)
                if self.topic_SO is not None:
                    weight_SOK = torch.cat([weight_SOK, self.topic_SO[places, :, None]], 2)
                parts.append(weight_SOK * state[:, :, values:])
            b_BSOK = torch.stack(parts).sum(0)
            for place, site in enumerate(group.sites):
                a_RI = self.whiten.rows(site, self._start(site))
                if self.topic_SO is not None:
                    a_RI = torch.cat([a_RI, self.whiten.constant(site)[None]])
                made[site] = (a_RI.expand(len(b_BSOK), *a_RI.shape), b_BSOK[:, place])
        return made

    def _keys(self, place: int, site: Site, inputs: Inputs) -> Float[Tensor, "B T K"]:
        x_BTM = self.whiten.norm(site, inputs[site]) @ self._start(site).mT
        key_BTM = convolve(x_BTM, self.shift_SJM[place])
        length_BT1 = key_BTM.norm(dim=-1, keepdim=True)
        # Nothing stands before the first token: at the start its key is 0, and so is the key's gradient.
        key_BTM = key_BTM * (length_BT1 > _SHORTEST) / length_BT1.clamp(min=_SHORTEST)
        return key_BTM if self.topic_SO is None else F.pad(key_BTM, (0, 1), value=1.0)

    def _start(self, site: Site) -> Float[Tensor, "M I"]:
        group = next(group for group in self.groups if site in group.sites)
        return self.start_a[group.name][group.sites.index(site)]
