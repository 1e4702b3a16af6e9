"""What every merge starts from and ends with: K checked adapters and their weights, and factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from weft.adapters import check_factors, check_one_base
from weft.errors import ConfigError, ShapeError
from weft.types import Adapter, Factors, Site

Weights = Sequence[float] | Mapping[int, Sequence[float]] | Tensor
"""One number per adapter; or, per layer, a mapping from its index to them, or a tensor [K, L]."""


@dataclass(frozen=True, eq=False)
class Sources:
    """Adapters that can be merged, and the weight of each of them at every site."""

    adapters: tuple[Adapter, ...]
    weights: Mapping[Site, tuple[float, ...]]
    """Its keys are the sites that at least one adapter changes, sorted by path."""

    def __len__(self) -> int:
        """K, the number of adapters."""
        return len(self.adapters)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that at least one adapter changes, sorted by path."""
        return tuple(self.weights)


class Merged(NamedTuple):
    """The factors of the result, and what cutting each site's rank has lost, relative to its norm."""

    factors: dict[Site, Factors]
    lost: dict[Site, float]


def gather(adapters: Sequence[Adapter], weights: Weights | None = None) -> Sources:
    """Check adapters and weights and put them together; weights are 1/K each unless given.

    Raises ShapeError for no adapters, no sites, factors that do not fit their site, one module path in two
    sizes and weights of another number; BaseMismatchError for adapters of different bases; WeightsError for
    NaN or infinity; ConfigError for weights that are not finite, and for tensors on different devices.
    """
    if not adapters:
        raise ShapeError("there are no adapters to merge; give at least one")
    check_one_base(adapters)
    sites = sorted({site for adapter in adapters for site in adapter.factors})
    if not sites:
        raise ShapeError("the adapters change no module, there is nothing to merge")
    for one, other in pairwise(sites):
        if one.path == other.path:
            raise ShapeError(
                f"{one.path} has different sizes in two adapters: "
                f"{(one.out_features, one.in_features)} and {(other.out_features, other.in_features)}"
            )
    for adapter in adapters:
        check_factors(adapter)
    devices = {str(f.a_RI.device) for adapter in adapters for f in adapter.factors.values()}
    if len(devices) > 1:
        raise ConfigError(f"the adapters lie on {' and '.join(sorted(devices))}; move them to one device")
    return Sources(tuple(adapters), _weights(weights, len(adapters), sites))


def shares(sources: Sources, method: str) -> None:
    """Raise ConfigError unless weights are shares of an average: none negative, not all of a site zero."""
    for site, weights in sources.weights.items():
        if min(weights) < 0 or not sum(weights):
            raise ConfigError(
                f"{method} averages by the weights, so none may be negative and not all zero; "
                f"{site.path} has {list(weights)}"
            )


def in_unit(name: str, value: float) -> None:
    """Raise ConfigError unless an option lies in (0, 1]."""
    if not 0 < value <= 1:
        raise ConfigError(f"{name} is {value}, it should be above 0 and at most 1")


def generator(seed: int) -> torch.Generator:
    """Where a call draws from: on the CPU, so that every device sees the same. Raises ConfigError."""
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}, it should be between 0 and 2^63")
    return torch.Generator().manual_seed(seed)


def full_rank(sources: Sources, site: Site) -> int:
    """The most that a site keeps by default: the sum of its ranks, or the smaller side of its matrix."""
    ranks = sum(a.factors[site].a_RI.shape[0] for a in sources.adapters if site in a.factors)
    return min(ranks, site.in_features, site.out_features)


def widest(sources: Sources, site: Site) -> torch.dtype:
    """The dtype of a merged site: that of its factors, float32 at least."""
    dtype = torch.float32
    for adapter in sources.adapters:
        if site in adapter.factors:
            a_RI, b_OR, _ = adapter.factors[site]
            dtype = torch.promote_types(dtype, torch.promote_types(a_RI.dtype, b_OR.dtype))
    return dtype


def _weights(weights: Weights | None, count: int, sites: Sequence[Site]) -> dict[Site, tuple[float, ...]]:
    if weights is None:
        return dict.fromkeys(sites, (1.0 / count,) * count)
    layers = sorted({site.layer for site in sites})
    if isinstance(weights, Tensor) and weights.dim() == 2:
        last = weights.shape[1] - 1
        if layers[0] < 0 or layers[-1] > last:
            raise ShapeError(
                f"weights [K, L] reach layers 0 to {last}, the adapters change layers {layers[0]} to "
                f"{layers[-1]} (-1 is outside the layers); give a mapping from layer to weights"
            )
        of_layer = {layer: weights[:, layer].tolist() for layer in layers}
    elif isinstance(weights, Mapping):
        missing = [layer for layer in layers if layer not in weights]
        if missing:
            raise ShapeError(
                f"no weights for layer {missing[0]}, which the adapters change; name every layer"
            )
        of_layer = {layer: [float(w) for w in weights[layer]] for layer in layers}
    else:
        of_layer = {layer: [float(w) for w in weights] for layer in layers}
    for layer, of_adapters in of_layer.items():
        if len(of_adapters) != count:
            raise ShapeError(f"{len(of_adapters)} weights for {count} adapters; give one for each")
        if not all(map(math.isfinite, of_adapters)):
            raise ConfigError(f"the weights {of_adapters} of layer {layer} are not all finite numbers")
    return {site: tuple(of_layer[site.layer]) for site in sites}
