"""The exact weighted sum: ranks side by side, no number lost. PEFT calls it `cat`."""

from __future__ import annotations

from weft.merging.exact import weighted_sum_of
from weft.merging.sources import Merged, Sources


def concat(sources: Sources) -> Merged:
    """Sum of w_k delta_k with the sum of the ranks."""
    return weighted_sum_of(sources, lambda site: sources.weights[site], None)
