"""Task arithmetic: add what was learned, or subtract it to forget.

    delta = scaling * sum_k w_k delta_k

Ilharco et al. 2023, "Editing Models with Task Arithmetic" (arXiv 2212.04089): an adapter's delta
is its task vector; a negative weight is negation.

Departs from the paper in: each task vector has a weight of its own.
"""

from __future__ import annotations

import math

from weft.errors import ConfigError
from weft.merging.exact import weighted_sum_of
from weft.merging.sources import Merged, Sources


def task_arithmetic(sources: Sources, *, scaling: float = 1.0, rank: int | None = None) -> Merged:
    """The weighted sum of deltas times `scaling`: exact, or the nearest adapter of rank `rank`.

    Raises ConfigError for a scaling that is not finite.
    """
    if not math.isfinite(scaling):
        raise ConfigError(f"scaling is {scaling}, it should be a finite number")
    return weighted_sum_of(sources, lambda site: tuple(scaling * w for w in sources.weights[site]), rank)
