"""Whether generated adapters differ: a collapsed hypernetwork writes nearly the same one for every task."""

from __future__ import annotations

from weft.embed import cosines
from weft.types import Bank


def mean_cosine(bank: Bank) -> float:
    """Mean cosine over the pairs of different adapters: 1 means one adapter for all. Needs two or more."""
    count = len(bank)
    assert count > 1
    cosine_KK = cosines(bank)
    return float((cosine_KK.sum() - cosine_KK.trace()) / (count * (count - 1)))
