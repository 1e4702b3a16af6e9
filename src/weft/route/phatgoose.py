"""PHATGOOSE: each adapter learns a gate of its own, apart from the others; together the gates route tokens.

Muqeeth et al. 2024 (arXiv 2402.05859), at every site by itself:

    training   y = W x + sigmoid(<v_k, x>) B_k A_k x       v_k starts at 0; only v_k is trained, on task k
    routing    w = softmax over the top k of <norm(x), norm(v_k)> / sqrt(I)   norm: zero mean, unit variance

Departs from the paper in: an adapter that lacks a site is not chosen there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.config import Config
from weft.errors import ShapeError, UnknownNameError
from weft.route.router_folder import AbstractSavedGate, GateParts, read_gate
from weft.route.spectral import check_library, choose_top, present
from weft.saved import Shapes
from weft.types import AbstractGate, Assignment, Bank, Site, State, TopK


class PhatgooseTraining(AbstractGate):
    """The gates of K adapters while they are learned: adapter `index_B[i]` and its gate act on batch row i.

    `vectors[n]` is v [K, I] of `sites[n]`. Each gate gets its gradient from its own rows alone.
    """

    def __init__(self, sites: Sequence[Site], count: int) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.vectors = nn.ParameterList(torch.zeros(count, site.in_features) for site in sites)
        self.index_B: Int[Tensor, " B"] = torch.zeros(1, dtype=torch.long)
        self._places = {site.path: n for n, site in enumerate(sites)}

    @property
    def gates(self) -> dict[Site, Tensor]:
        """What `Phatgoose` takes: v [K, I] by site, without gradient."""
        return {site: v.detach().clone() for site, v in zip(self.sites, self.vectors, strict=True)}

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The row's adapter, weighted per token by its sigmoid."""
        v_BI = self.vectors[self._places[site.path]][self.index_B]
        weight_BT = (x_BTI.to(v_BI.dtype) * v_BI[:, None]).sum(-1).sigmoid()
        index_BTk = self.index_B[:, None, None].expand(*weight_BT.shape, 1)
        return TopK(index_BTk, weight_BT[..., None]), state


class Phatgoose(AbstractSavedGate):
    """Top `top_k` of a bank per token and site, by gates that were trained one by one: v [K, I] per site.

    Raises ShapeError for an empty bank, NaN in it, or gates that do not fit it, ConfigError for a `top_k` or
    temperature out of range.
    """

    def __init__(
        self, bank: Bank, gates: Mapping[Site, Tensor], *, top_k: int = 2, temperature: float = 1.0
    ) -> None:
        check_library(bank, top_k, temperature)
        for site in bank.sites:
            want = (len(bank), site.in_features)
            if site not in gates or tuple(gates[site].shape) != want:
                found = tuple(gates[site].shape) if site in gates else "missing"
                raise ShapeError(f"the gates of {site.path} are {found}, this bank needs {want}")
            if not torch.isfinite(gates[site]).all():
                raise ShapeError(f"the gates of {site.path} hold NaN or infinity")
        super().__init__()
        self.top_k = top_k
        self.temperature = temperature
        self.gates = {
            site.path: F.layer_norm(gates[site].detach().float(), (site.in_features,)) for site in bank.sites
        }
        self.present = present(bank)

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The best adapters of each token. Raises UnknownNameError for a site that the bank lacks."""
        if site.path not in self.gates:
            raise UnknownNameError(f"these gates were made for a bank without {site.path}")
        v_KI = self.gates[site.path]
        x_BTI = F.layer_norm(x_BTI.to(v_KI.dtype), (site.in_features,))
        score_BTK = x_BTI @ v_KI.mT * site.in_features**-0.5
        return choose_top(score_BTK, self.present[site.path], self.top_k, self.temperature), state

    def parts(self) -> GateParts:
        """What its folder holds."""
        options = _Options(top_k=self.top_k, temperature=self.temperature)
        return GateParts("phatgoose", len(next(iter(self.gates.values()))), self.gates, options)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], bank: Bank) -> Phatgoose:
        """Read a folder for its own library, frozen, on its device. Raises what `read_gate` raises."""
        options, tensors = read_gate(folder, "phatgoose", bank, _Options, _shapes)
        gates = {site: tensors[site.path].to(bank.a[site].device) for site in bank.sites}
        gate = cls(bank, gates, top_k=options.top_k, temperature=options.temperature)
        # As they were saved: to normalise once more would change their last digits.
        gate.gates = {site.path: v_KI for site, v_KI in gates.items()}
        return gate


class _Options(Config):
    top_k: int
    temperature: float


def _shapes(bank: Bank, options: _Options) -> Shapes:
    return {site.path: (len(bank), site.in_features) for site in bank.sites}
