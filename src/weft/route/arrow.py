"""Arrow: each token goes to the adapters whose strongest input direction it follows; nothing is trained.

Ostapenko et al. 2024 (arXiv 2405.11157), at every site by itself:

    v_k = the right singular vector of B_k A_k with the largest singular value
    w   = softmax over the top k of |<x, v_k>| / temperature

As in PEFT, x is not normalised, so the weights sharpen with its length.

Departs from the paper in: v_k is exact, from QR of the factors; an adapter that lacks a site is never
chosen there.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import UnknownNameError
from weft.route.spectral import check_library, choose_top, one_of, present, right_vectors
from weft.types import AbstractGate, Assignment, Bank, Site


class Arrow(AbstractGate):
    """Top `top_k` of a bank per token and site, by `prototypes` of unit length: module path -> [K, I].

    Raises ShapeError for an empty bank or NaN in it, ConfigError for a `top_k` or temperature out of range.
    """

    def __init__(self, bank: Bank, *, top_k: int = 3, temperature: float = 1.0) -> None:
        check_library(bank, top_k, temperature)
        super().__init__()
        self.top_k = top_k
        self.temperature = temperature
        self.prototypes = {site.path: _prototypes(bank, site) for site in bank.sites}
        self.present = present(bank)

    def update(self, bank: Bank, index: int) -> None:
        """Look at adapter `index` again, after it came, went or changed in place; no other is touched.

        Raises ShapeError for a bank of other sites or size, or NaN in that adapter.
        """
        one = one_of(bank, index, self.present)
        for site, here in present(one).items():
            self.present[site][index] = here[0]
        for site in one.sites:
            self.prototypes[site.path][index] = _prototypes(one, site)[0]

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: Any) -> Assignment:
        """The best adapters of each token. Raises UnknownNameError for a site that the bank lacks."""
        if site.path not in self.prototypes:
            raise UnknownNameError(f"this Arrow was made for a bank without {site.path}")
        v_KI = self.prototypes[site.path]
        score_BTK = (x_BTI.to(v_KI.dtype) @ v_KI.mT).abs()
        return choose_top(score_BTK, self.present[site.path], self.top_k, self.temperature)


def _prototypes(bank: Bank, site: Site) -> Float[Tensor, "K I"]:
    """In float32, on the bank's device."""
    _, v_KRI = right_vectors(bank.a[site], bank.b[site])
    return v_KRI[:, 0].to(torch.float32)
