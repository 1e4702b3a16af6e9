"""The adapter that is always on: it lets a frozen base say control tokens that it was never taught.

At every site a LoRA; at the output head only the control tokens' own rows move, which as a LoRA is

    delta W_head = sum_c e_c a_c^T        e_c: the unit vector of token c     a_c: [H], learned

so nothing else of the head changes, and the whole is an ordinary adapter with one site more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from weft.errors import ConfigError
from weft.hyper.head import kaiming
from weft.types import Adapter, Bank, Factors, Site


class Speaker(nn.Module):
    """A LoRA of `rank` at `sites` (A as PEFT starts it, B = 0), and a row of `head` per control token.

    Raises ConfigError for a control token that the head has no row for.
    """

    def __init__(
        self, sites: Sequence[Site], head: Site, controls: Sequence[int], *, rank: int, scaling: float
    ) -> None:
        super().__init__()
        for control in controls:
            if not 0 <= control < head.out_features:
                raise ConfigError(
                    f"control token {control} is not in the vocabulary of {head.out_features}; "
                    "choose an id that the tokenizer does not use"
                )
        self.sites = tuple(sorted(sites))
        self.head = head
        self.controls = tuple(controls)
        self.scaling = scaling
        self.a = nn.ParameterList(kaiming(1, rank, site.in_features)[0] for site in self.sites)
        self.b = nn.ParameterList(torch.zeros(site.out_features, rank) for site in self.sites)
        self.row_CH = nn.Parameter(torch.zeros(len(controls), head.in_features))

    def factors(self) -> dict[Site, Factors]:
        """A and B of every site; gradients flow to them."""
        found = {
            site: Factors(a_RI, b_OR, self.scaling)
            for site, a_RI, b_OR in zip(self.sites, self.a, self.b, strict=True)
        }
        if self.controls:
            unit_OC = self.row_CH.new_zeros(self.head.out_features, len(self.controls))
            unit_OC[list(self.controls), range(len(self.controls))] = 1
            found[self.head] = Factors(self.row_CH, unit_OC, 1.0)
        return found

    def bank(self) -> Bank:
        """The adapter as a bank of one; differentiable."""
        factors = self.factors()
        return Bank(
            ("speaker",),
            {site: f.a_RI[None] for site, f in factors.items()},
            {site: f.b_OR[None] * f.scaling for site, f in factors.items()},
        )

    @torch.no_grad()
    def adapter(self, base: str = "") -> Adapter:
        """The adapter as a value."""
        factors = {
            site: Factors(f.a_RI.detach().clone(), f.b_OR.detach().clone(), f.scaling)
            for site, f in self.factors().items()
        }
        return Adapter(factors, base=base, name="speaker")
