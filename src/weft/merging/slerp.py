"""Spherical interpolation of two adapters along the arc between their deltas, site by site.

    t = w_2 / (w_1 + w_2),   cos W = <x, y> / (|x| |y|)
    delta = sin((1 - t) W) / sin W * x  +  sin(t W) / sin W * y

Shoemake 1985, "Animating Rotation with Quaternion Curves", as merges of models use it. Inner
products are taken from the factors, so the result is exact.

Departs from the paper in: x and y keep their lengths; where they are parallel, opposite or zero, the
straight line.
"""

from __future__ import annotations

import math

from weft.adapters import inner
from weft.errors import ShapeError
from weft.merging.exact import weighted_sum_of
from weft.merging.sources import Merged, Sources, shares
from weft.types import Adapter, Site

_STRAIGHT = 1e-6
"""Sine of the angle below which an arc is a line."""


def slerp(sources: Sources, *, rank: int | None = None) -> Merged:
    """The point of the arc that two weights name. Raises ShapeError unless there are two adapters."""
    if len(sources) != 2:
        raise ShapeError(f"slerp goes from one adapter to another, it got {len(sources)}; give two")
    shares(sources, "slerp")
    return weighted_sum_of(sources, lambda site: _arc(sources, site), rank)


def _arc(sources: Sources, site: Site) -> tuple[float, float]:
    first, second = sources.weights[site]
    t = second / (first + second)
    x, y = (Adapter({site: a.factors[site]} if site in a.factors else {}) for a in sources.adapters)
    length = math.sqrt(inner(x, x) * inner(y, y))
    angle = math.acos(max(-1.0, min(1.0, inner(x, y) / length))) if length else 0.0
    if math.sin(angle) < _STRAIGHT:
        return 1.0 - t, t
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
