"""The true weighted sum of deltas.

    delta = sum_k w_k s_k B_k A_k

Departs from PEFT's `linear` and from mergekit's in: PEFT adds the factors (see `peft_linear`), mergekit
divides by the sum of the weights unless told otherwise.
"""

from __future__ import annotations

from weft.merging.exact import weighted_sum_of
from weft.merging.sources import Merged, Sources


def linear(sources: Sources, *, rank: int | None = None) -> Merged:
    """Sum of w_k delta_k: exact, or the nearest adapter of rank `rank` where one is given."""
    return weighted_sum_of(sources, lambda site: sources.weights[site], rank)
