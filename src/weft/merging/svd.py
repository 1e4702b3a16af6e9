"""The best adapter of one rank for the weighted sum of deltas, never forming a delta.

    B_cat = Q_b R_b,   A_cat^T = Q_a R_a,   R_b R_a^T = U S V^T;   the largest S are kept

Eckart and Young 1936. PEFT's `svd` gives the same adapter by an SVD of the dense delta.
"""

from __future__ import annotations

from weft.merging.exact import weighted_sum_of
from weft.merging.sources import Merged, Sources


def svd(sources: Sources, *, rank: int | None = None) -> Merged:
    """Nearest to the sum of w_k delta_k at rank `rank`; the largest rank of a source unless given."""
    return weighted_sum_of(
        sources, lambda site: sources.weights[site], rank or max(adapter.rank for adapter in sources.adapters)
    )
