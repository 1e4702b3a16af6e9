"""SpectR: Arrow with the whole spectrum; a token goes to the adapters that would change it most.

Fleshman and Van Durme 2025 (COLM), at every site by itself, with B_k A_k = U_k S_k V_k^T:

    score_k = |S_k V_k^T x|, which is |B_k A_k x|
    w       = softmax over the top k of score_k / temperature

Departs from the paper in: an adapter that lacks a site is not chosen there.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import UnknownNameError
from weft.route.spectral import check_library, choose_top, one_of, present, right_vectors
from weft.types import AbstractGate, Assignment, Bank, Site


class Spectr(AbstractGate):
    """Top `top_k` of a bank per token and site, by `spectra` (S V^T): module path -> [K, R, I].

    Raises ShapeError for an empty bank or NaN in it, ConfigError for a `top_k` or temperature out of range.
    """

    def __init__(self, bank: Bank, *, top_k: int = 3, temperature: float = 1.0) -> None:
        check_library(bank, top_k, temperature)
        super().__init__()
        self.top_k = top_k
        self.temperature = temperature
        self.spectra = {site.path: _spectra(bank, site) for site in bank.sites}
        self.present = present(bank)

    def update(self, bank: Bank, index: int) -> None:
        """Look at adapter `index` again, after it came, went or changed in place; no other is touched.

        Raises ShapeError for a bank of other sites or size, or NaN in that adapter.
        """
        one = one_of(bank, index, self.present)
        for site, here in present(one).items():
            self.present[site][index] = here[0]
        for site in one.sites:
            self.spectra[site.path][index] = _spectra(one, site)[0]

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: Any) -> Assignment:
        """The best adapters of each token. Raises UnknownNameError for a site that the bank lacks."""
        if site.path not in self.spectra:
            raise UnknownNameError(f"this SpectR was made for a bank without {site.path}")
        sv_KRI = self.spectra[site.path]
        u_BTKR = (x_BTI.to(sv_KRI.dtype) @ sv_KRI.flatten(0, 1).mT).unflatten(-1, sv_KRI.shape[:2])
        return choose_top(u_BTKR.norm(dim=-1), self.present[site.path], self.top_k, self.temperature)


def _spectra(bank: Bank, site: Site) -> Float[Tensor, "K R I"]:
    """In float32, on the bank's device."""
    s_KR, v_KRI = right_vectors(bank.a[site], bank.b[site])
    return (s_KR[..., None] * v_KRI).to(torch.float32)
