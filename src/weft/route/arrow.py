"""Arrow: each token goes to the adapters whose strongest input direction it follows; nothing is trained.

Ostapenko et al. 2024 (arXiv 2405.11157), at every site by itself:

    v_k = the right singular vector of B_k A_k with the largest singular value
    w   = softmax over the top k of |<x, v_k>| / temperature

As in PEFT, x is not normalised, so the weights sharpen with its length.

Departs from the paper in: v_k is exact, from QR of the factors; an adapter that lacks a site is never
chosen there.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from weft.route.spectral import AbstractSpectral, right_vectors
from weft.types import Bank, Site


class Arrow(AbstractSpectral):
    """The gate over unit vectors [K, I] of a bank."""

    def look(self, bank: Bank, site: Site) -> Float[Tensor, "K I"]:
        """The first right singular vector of each adapter, of unit length."""
        _, v_KRI = right_vectors(bank.a[site], bank.b[site])
        return v_KRI[:, 0]

    def score(
        self, x_BTI: Float[Tensor, "B T I"], directions: Float[Tensor, "K I"]
    ) -> Float[Tensor, "B T K"]:
        """The size of each token's part along each vector."""
        return (x_BTI @ directions.mT).abs()
