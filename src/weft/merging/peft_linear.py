"""What PEFT 0.21.2 calls `linear`: the factors are added, not their products. For parity; prefer `linear`.

    c_k = w_k s_k
    A = sum_k sign(c_k) sqrt(|c_k|) A_k,   B = sum_k sqrt(|c_k|) B_k,   delta = B A

B A holds a cross term for every pair of adapters, so it is the sum of deltas for one adapter only, and it
changes under (B M, M^-1 A), which leaves every delta as it was.
"""

from __future__ import annotations

import math

import torch

from weft.errors import ShapeError
from weft.merging.sources import Merged, Sources, widest
from weft.types import Factors


def peft_linear(sources: Sources) -> Merged:
    """The sum of factors, each with the root of its weight. Raises ShapeError for ranks that differ."""
    for site in sources.sites:
        ranks = [a.factors[site].a_RI.shape[0] for a in sources.adapters if site in a.factors]
        if len(set(ranks)) > 1:
            raise ShapeError(f"peft_linear adds factors, which needs equal ranks; {site.path} has {ranks}")
    factors = {}
    for site in sources.sites:
        dtype, a, b = widest(sources, site), [], []
        for adapter, weight in zip(sources.adapters, sources.weights[site], strict=True):
            if site in adapter.factors:
                a_RI, b_OR, scaling = adapter.factors[site]
                c = weight * scaling
                a.append(math.copysign(math.sqrt(abs(c)), c) * a_RI.to(dtype))
                b.append(math.sqrt(abs(c)) * b_OR.to(dtype))
        factors[site] = Factors(torch.stack(a).sum(0), torch.stack(b).sum(0), 1.0)
    return Merged(factors, dict.fromkeys(factors, 0.0))
