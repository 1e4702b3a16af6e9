"""Mix: how much every source of adapters acts at every site, weighed anew at every event.

A source is whatever has made one adapter for a row: a context network, a stack of hypernetworks, a library.
With v = norm(W h), h the state that the event's token was chosen from (v_0, learned, before any event), and
n_js the Frobenius norm of what source j does at site s:

    s_j   = U log(1 + n_j) + e_j                  the state of a source; nothing where it has no adapter
    z_j   = mlp([v; s_j; sum_i s_i])
    w_js  = 2 sigmoid(z_j . u_s + c_s)            u = c = 0 at first: every source at weight 1, a plain sum
    y     = W x + sum_j w_js B_j A_j x

The weights depend on no token between two events, so a row under them is a row under ordinary adapters.
X-LoRA (Buehler & Buehler 2024, arXiv 2402.07148) weighs per token and layer, but a fixed library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.adapters import squared_norms
from weft.config import Config, Size
from weft.errors import ConfigError, ShapeError
from weft.types import Adapter, Bank, Factors, Mixture, Rows, Site, Term


class MixConfig(Config):
    """A network that mixes sources."""

    vector: Size = 32
    """Length of the event's vector and of a source's state."""
    hidden: Size = 64
    """Width of its hidden layer."""


class Mix(nn.Module):
    """The network for `sources` sources over `sites`, and a host whose state has `width` numbers.

    Raises ConfigError for no sources or no sites.
    """

    def __init__(self, config: MixConfig, sites: Sequence[Site], *, width: int, sources: int) -> None:
        super().__init__()
        if sources < 1 or not sites:
            raise ConfigError(f"a mix needs sources and sites, got {sources} and {len(sites)}")
        self.config = config
        self.sites = tuple(sorted(sites))
        self.width = width
        self.sources = sources
        dim = config.vector
        self.signal = nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim))
        self.before_D = nn.Parameter(torch.zeros(dim))
        self.size = nn.Linear(len(self.sites), dim, bias=False)
        self.source_JD = nn.Parameter(torch.randn(sources, dim))
        self.mlp = nn.Sequential(nn.Linear(3 * dim, config.hidden), nn.SiLU())
        self.weigh = nn.Linear(config.hidden, len(self.sites))
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def before(self, rows: int) -> Float[Tensor, "B D"]:
        """What stands for the vector in rows that have had no event."""
        return self.before_D.expand(rows, -1)

    def vector(self, hidden_BH: Float[Tensor, "B H"]) -> Float[Tensor, "B D"]:
        """The vectors of events. Raises ShapeError for states of another width."""
        if hidden_BH.shape[-1] != self.width:
            raise ShapeError(
                f"the mix reads states of width {self.width}, got {hidden_BH.shape[-1]}; "
                "use the base that it was trained on"
            )
        return self.signal(hidden_BH.float())

    def forward(
        self, vector_BD: Float[Tensor, "B D"], size_BJS: Float[Tensor, "B J S"]
    ) -> Float[Tensor, "B J S"]:
        """The weight of every source at every site; 0 where a source has no adapter. Raises ShapeError."""
        if size_BJS.shape[1:] != (self.sources, len(self.sites)):
            raise ShapeError(
                f"this mix weighs {self.sources} sources at {len(self.sites)} sites, "
                f"got sizes of {tuple(size_BJS.shape[1:])}"
            )
        there_BJ1 = (size_BJS > 0).any(-1, keepdim=True).float()
        state_BJD = (self.size(size_BJS.log1p()) + self.source_JD) * there_BJ1
        told = [vector_BD[:, None], state_BJD, state_BJD.sum(1, keepdim=True)]
        z_BJH = self.mlp(torch.cat([part.expand_as(state_BJD) for part in told], -1))
        return 2 * torch.sigmoid(self.weigh(z_BJH)) * there_BJ1


def sizes(bank: Bank, sites: Sequence[Site]) -> Float[Tensor, "K S"]:
    """The Frobenius norm of every adapter at every site, without gradient; 0 where it changes nothing."""
    found = []
    for site in sites:
        if site not in bank.a:
            found.append(torch.zeros(len(bank)))
            continue
        a_KRI, b_KOR = bank.a[site].detach().double(), bank.b[site].detach().double()
        found.append(squared_norms(a_KRI, b_KOR).clamp(min=0).sqrt().float())
    return torch.stack(found, 1)


def weighed(adapter: Adapter, weight_S: Float[Tensor, " S"], sites: Sequence[Site]) -> Adapter | None:
    """An adapter whose scaling is multiplied site by site; None where nothing is left of it.

    Raises ShapeError for an adapter with a site that has no weight.
    """
    by_site = dict(zip(sites, weight_S.tolist(), strict=True))
    missing = [site.path for site in adapter.factors if site not in by_site]
    if missing:
        raise ShapeError(f"{adapter.name} changes {missing[0]}, which this mix has no weight for")
    factors = {
        site: Factors(a_RI, b_OR, scaling * by_site[site])
        for site, (a_RI, b_OR, scaling) in adapter.factors.items()
        if by_site[site]
    }
    if not factors:
        return None
    return Adapter(factors, base=adapter.base, name=adapter.name)


def mixed(banks: Sequence[Bank | None], weight_BJS: Float[Tensor, "B J S"], sites: Sequence[Site]) -> Mixture:
    """One adapter per row and source, each under its weights; differentiable. None is a source without any.

    Raises ShapeError for banks of another number of rows, or with a site that has no weight.
    """
    terms = []
    for place, bank in enumerate(banks):
        if bank is None:
            continue
        if len(bank) != len(weight_BJS):
            raise ShapeError(f"source {place} has {len(bank)} adapters for {len(weight_BJS)} rows")
        missing = [site.path for site in bank.a if site not in sites]
        if missing:
            raise ShapeError(f"source {place} changes {missing[0]}, which this mix has no weight for")
        here = {site: weight_BJS[:, place, s] for s, site in enumerate(sites) if site in bank.a}
        b = {site: bank.b[site] * weight_B[:, None, None] for site, weight_B in here.items()}
        a = {site: bank.a[site] for site in here}
        rows = torch.arange(len(bank), device=weight_BJS.device)
        terms.append(Term(Bank(bank.names, a, b, bank.base), Rows(rows)))
    return Mixture(tuple(terms))
