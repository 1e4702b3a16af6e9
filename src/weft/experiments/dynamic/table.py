"""Lines of a table: a value per seed, or per test stream of a single seed; their mean and an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weft.evaluate.intervals import Interval

_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Student's t for a two-sided interval of 95 %, by number of values."""
_TINY = 5e-4
"""A single value below, such as a p, is shown by its power of ten."""


@dataclass(frozen=True)
class Line:
    """One measured thing."""

    what: str
    who: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds, or streams."""
        return sum(self.values) / len(self.values)

    @property
    def half(self) -> float:
        """Of the interval of 95 % by Student's t; 0 for one value, which has none."""
        count = len(self.values)
        if count < 2:
            return 0.0
        variance = sum((value - self.mean) ** 2 for value in self.values) / (count - 1)
        # Beyond the table: Cornish and Fisher's expansion of t around the normal, right to 0.03 from six on.
        t95 = _T95.get(count, 1.96 + 2.37 / (count - 1) + 2.82 / (count - 1) ** 2)
        return t95 * math.sqrt(variance / count)

    @property
    def interval(self) -> Interval:
        """The same, from below to above."""
        return Interval(self.mean, self.mean - self.half, self.mean + self.half)

    @property
    def shown(self) -> str:
        """Mean, and from two values on the interval; up to five values are listed."""
        if len(self.values) < 2:
            return f"{self.mean:.3f}" if self.mean == 0 or abs(self.mean) >= _TINY else f"{self.mean:.0e}"
        listed = (
            f" ({', '.join(f'{value:.3f}' for value in self.values)})" if len(self.values) in _T95 else ""
        )
        return f"{self.mean:.3f} ± {self.half:.3f}{listed}"


def line_of(what: str, who: str, values: Sequence[float]) -> Line:
    """A line from one value per seed, or per stream."""
    return Line(what, who, tuple(values))


def share(values: Sequence[bool]) -> float:
    """The share that holds; 0 of none."""
    return sum(values) / len(values) if values else 0.0
