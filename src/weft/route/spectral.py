"""Gates that choose by the singular vectors of adapters: what Arrow and SpectR share.

    B = Q_b R_b,  A^T = Q_a R_a,  R_b R_a^T = U S V^T,  so  B A = (Q_b U) S (Q_a V)^T

The small decompositions are of the size of the rank and run in float64, all adapters at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.types import AbstractGate, Assignment, Bank, Rows, Site, State, TopK


class AbstractSpectral(AbstractGate):
    """Top `top_k` of a bank per token and site, by `directions`: module path -> [K, ...], in float32.

    Raises ShapeError for an empty bank or NaN in it, ConfigError for a `top_k` or temperature out of range.
    """

    def __init__(self, bank: Bank, *, top_k: int = 3, temperature: float = 1.0) -> None:
        check_library(bank, top_k, temperature)
        super().__init__()
        self.top_k = top_k
        self.temperature = temperature
        self.directions = {site.path: self.look(bank, site).to(torch.float32) for site in bank.sites}
        self.present = present(bank)

    @abstractmethod
    def look(self, bank: Bank, site: Site) -> Float[Tensor, "K ..."]:
        """What tokens are compared with, for every adapter; on the bank's device."""

    @abstractmethod
    def score(
        self, x_BTI: Float[Tensor, "B T I"], directions: Float[Tensor, "K ..."]
    ) -> Float[Tensor, "B T K"]:
        """How much each token follows each adapter."""

    def update(self, bank: Bank, index: int) -> None:
        """Look at adapter `index` again, after it came, went or changed in place; no other is touched.

        Raises ShapeError for a bank of other sites or size, or NaN in that adapter.
        """
        one = one_of(bank, index, self.present)
        for site, here in present(one).items():
            self.present[site][index] = here[0]
        for site in one.sites:
            self.directions[site.path][index] = self.look(one, site)[0]

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The best adapters of each token. Raises UnknownNameError for a site that the bank lacks."""
        if site.path not in self.directions:
            raise UnknownNameError(f"this {type(self).__name__} was made for a bank without {site.path}")
        directions = self.directions[site.path]
        score_BTK = self.score(x_BTI.to(directions.dtype), directions)
        return choose_top(score_BTK, self.present[site.path], self.top_k, self.temperature), state


@torch.no_grad()
def right_vectors(
    a_KRI: Float[Tensor, "K R I"], b_KOR: Float[Tensor, "K O R"]
) -> tuple[Float[Tensor, "K r"], Float[Tensor, "K r I"]]:
    """Singular values of each B A, largest first, and their right singular vectors as rows; in float64."""
    q_KIR, r_a = torch.linalg.qr(a_KRI.double().mT)
    r_b = torch.linalg.qr(b_KOR.double(), mode="r")[1]
    _, s_KR, v_KRR = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
    return s_KR, v_KRR @ q_KIR.mT


def check_library(bank: Bank, top_k: int, temperature: float = 1.0) -> None:
    """Raise ShapeError for an empty bank or NaN in it, ConfigError for k or a temperature out of range."""
    if not len(bank) or not bank.sites:
        raise ShapeError("there is no adapter to choose from, the bank is empty")
    if not 1 <= top_k <= len(bank):
        raise ConfigError(f"top_k is {top_k}, a bank of {len(bank)} allows 1 to {len(bank)}")
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"a temperature is above 0 and finite, got {temperature}")
    for site in bank.sites:
        if not (torch.isfinite(bank.a[site]).all() and torch.isfinite(bank.b[site]).all()):
            raise ShapeError(f"the bank holds NaN or infinity at {site.path}")


def present(bank: Bank) -> dict[str, Bool[Tensor, " K"]]:
    """By module path, which adapters change it at all; the others hold zeros for it."""
    return {s.path: (bank.a[s].abs().amax((1, 2)) * bank.b[s].abs().amax((1, 2))) > 0 for s in bank.sites}


def one_of(bank: Bank, index: int, present: Mapping[str, Tensor]) -> Bank:
    """One adapter of the bank that a gate was made for, as a bank; `present` is what the gate knows of it.

    Raises ShapeError for a bank of other sites or size, an index outside it, or NaN in that adapter.
    """
    if {site.path for site in bank.sites} != present.keys() or any(
        len(here_K) != len(bank) for here_K in present.values()
    ):
        raise ShapeError("this bank has other sites or another size than the one that the gate was made for")
    if not 0 <= index < len(bank):
        raise ShapeError(f"adapters run from 0 to {len(bank) - 1} in this bank, got {index}")
    one = Bank(
        names=(bank.names[index],),
        a={site: a_KRI[index : index + 1] for site, a_KRI in bank.a.items()},
        b={site: b_KOR[index : index + 1] for site, b_KOR in bank.b.items()},
        base=bank.base,
    )
    check_library(one, 1)
    return one


def choose_top(
    score_BTK: Float[Tensor, "B T K"], present_K: Bool[Tensor, " K"], top_k: int, temperature: float
) -> Assignment:
    """The `top_k` best adapters of each token, weighted by a softmax of their scores over the temperature.

    An adapter that does not change the site takes no part there; where none does, all is the base.
    """
    if not present_K.any():
        return Rows(torch.full((1,), -1, device=score_BTK.device))
    score_BTK = (score_BTK / temperature).masked_fill(~present_K, -torch.inf)
    score_BTk, index_BTk = score_BTK.topk(top_k, dim=-1)
    return TopK(index_BTk, score_BTk.softmax(-1))
