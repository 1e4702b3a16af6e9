"""What sites read, made comparable: features of one variance around 0, so that words are keys of their own.

    norm(x) = (x - mu) C^(-1/2)        row(k) = k C^(-1/2) P,  P = 1 - mu mu^T / |mu|^2

mu and C are mean and covariance of what the site reads of ordinary texts. Inputs of a site share most of
their length (a cosine of 0.9 between two names is usual), so a raw one answers to every word. A row of A made
from a key gives row(k) x = k . norm(x), up to what P takes: there is no bias, so rows are orthogonal to mu.
What varies least where x is mu on average, and 1 there, is constant(x) = mu C^-1 x / (mu C^-1 mu).

Massive activations (Sun et al. 2024, arXiv 2402.17762; the first token of a text in most language models)
would be all that C knows, so inputs far longer than the median one are left out of mu and C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.types import Site

_RIDGE = 0.01
"""Added to every variance, in units of the mean one."""
_MASSIVE = 10.0
"""Length of an input that is left out, in units of the median one."""


class Whitening(nn.Module):
    """Mean and whitening matrix of every site; the identity until it is fitted."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self._places = {site: place for place, site in enumerate(sites)}
        for place, site in enumerate(sites):
            self.register_buffer(f"mean_{place}", torch.zeros(site.in_features))
            self.register_buffer(f"white_{place}", torch.eye(site.in_features))

    @torch.no_grad()
    def fit(self, seen: Mapping[Site, Float[Tensor, "N _"]]) -> None:
        """Take mean and covariance from tokens of ordinary texts."""
        for site, x_NI in seen.items():
            mean_I, white_II = self._of(site)
            length_N = x_NI.norm(dim=1)
            x_NI = x_NI[length_N <= _MASSIVE * length_N.median()]
            values_I, vectors_II = torch.linalg.eigh(torch.cov(x_NI.double().mT))
            scale_I = (values_I.clamp(min=0) + _RIDGE * values_I.mean()).rsqrt()
            mean_I.copy_(x_NI.mean(0))
            white_II.copy_(vectors_II @ torch.diag(scale_I) @ vectors_II.mT)

    def norm(self, site: Site, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B I"]:
        """Inputs of a site as keys."""
        mean_I, white_II = self._of(site)
        return (x - mean_I) @ white_II

    def rows(self, site: Site, keys: Float[Tensor, "*B I"]) -> Float[Tensor, "*B I"]:
        """Rows of A that answer to these keys."""
        mean_I, white_II = self._of(site)
        raw = keys @ white_II
        square = mean_I.square().sum().clamp(min=1e-12)
        return raw - (raw @ mean_I)[..., None] * mean_I / square

    def constant(self, site: Site) -> Float[Tensor, " I"]:
        """The row of A that comes nearest to giving 1 for every input; zeros until it is fitted."""
        mean_I, white_II = self._of(site)
        raw_I = white_II @ (white_II @ mean_I)
        return raw_I / (raw_I @ mean_I).clamp(min=1e-12)

    def _of(self, site: Site) -> tuple[Tensor, Tensor]:
        place = self._places[site]
        return self.get_buffer(f"mean_{place}"), self.get_buffer(f"white_{place}")
