"""The k-th largest magnitude among any number of matrices, without holding more than one of them.

The bits of non-negative float32 numbers, read as integers, are in the same order as the numbers. One pass
counts the upper half of the bits, a second the lower half of those that share the upper half of the answer:
exact to float32, in 64 thousand counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from weft.merging.dense import delta_rows, row_blocks
from weft.merging.sources import Sources
from weft.types import Adapter, Site

_HALF = 2**16


def magnitude(tensor: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """What thresholds compare: absolute values in float32."""
    return tensor.abs().float()


def kth_largest(tensors: Callable[[], Iterable[Tensor]], k: int) -> float:
    """The k-th largest magnitude, k from 1, of all numbers that `tensors()` yields; it is called twice."""
    upper, left = _kth(torch.stack([_counts(_bits(t) >> 16) for t in tensors()]).sum(0), k)
    same = (bits[bits >> 16 == upper] for bits in map(_bits, tensors()))
    lower, _ = _kth(torch.stack([_counts(bits & (_HALF - 1)) for bits in same]).sum(0), left)
    return float(torch.tensor((upper << 16) | lower, dtype=torch.int32).view(torch.float32))


def keep_count(density: float, size: int) -> int:
    """How many of `size` numbers a density keeps: the nearest whole number, one at least."""
    return max(1, round(density * size))


def over_adapters(sources: Sources, density: float) -> list[float]:
    """For each adapter, the magnitude that this share of the entries of all its deltas reach."""
    limits = []
    for adapter in sources.adapters:
        size = sum(site.in_features * site.out_features for site in adapter.sites)
        deltas = partial(_deltas, sources, adapter, adapter.sites)
        limits.append(kth_largest(deltas, keep_count(density, size)) if size else 0.0)
    return limits


def at_site(sources: Sources, site: Site, k: int) -> list[float]:
    """For each adapter, the k-th largest magnitude of its delta at one site; 0 where it has none."""
    return [
        kth_largest(partial(_deltas, sources, adapter, (site,)), k) if site in adapter.factors else 0.0
        for adapter in sources.adapters
    ]


def _deltas(sources: Sources, adapter: Adapter, sites: tuple[Site, ...]) -> Iterator[Tensor]:
    for site in sites:
        for rows in row_blocks(sources, site):
            yield delta_rows(adapter.factors[site], rows)


def _bits(tensor: Tensor) -> Tensor:
    return magnitude(tensor).flatten().view(torch.int32)


def _counts(values: Tensor) -> Tensor:
    return torch.bincount(values, minlength=_HALF).cpu()


def _kth(counts: Tensor, k: int) -> tuple[int, int]:
    """The counter that holds the k-th largest, and its place among those in it."""
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top < k).sum())
    before = int(from_top[place - 1]) if place else 0
    return len(counts) - 1 - place, k - before
