"""SpectR: Arrow with the whole spectrum; a token goes to the adapters that would change it most.

Fleshman and Van Durme 2025 (COLM), at every site by itself, with B_k A_k = U_k S_k V_k^T:

    score_k = |S_k V_k^T x|, which is |B_k A_k x|
    w       = softmax over the top k of score_k / temperature

Departs from the paper in: an adapter that lacks a site is not chosen there.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from weft.route.spectral import AbstractSpectral, right_vectors
from weft.types import Bank, Site


class Spectr(AbstractSpectral):
    """The gate over the spectra [K, R, I] of a bank."""

    def look(self, bank: Bank, site: Site) -> Float[Tensor, "K R I"]:
        """S V^T of each adapter."""
        s_KR, v_KRI = right_vectors(bank.a[site], bank.b[site])
        return s_KR[..., None] * v_KRI

    def score(
        self, x_BTI: Float[Tensor, "B T I"], directions: Float[Tensor, "K R I"]
    ) -> Float[Tensor, "B T K"]:
        """The length of what each adapter would add."""
        u_BTKR = (x_BTI @ directions.flatten(0, 1).mT).unflatten(-1, directions.shape[:2])
        return u_BTKR.norm(dim=-1)
