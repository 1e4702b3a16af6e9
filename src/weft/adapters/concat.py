"""The exact weighted sum of adapters, by putting their ranks side by side.

    sum_k w_k s_k B_k A_k = [w_1 s_1 B_1, ..., w_K s_K B_K] [A_1; ...; A_K]

No delta is ever formed; the rank of the result is the sum of the ranks. (PEFT calls this `cat`.)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from weft.adapters.card import base_model
from weft.adapters.provenance import inherited
from weft.errors import BaseMismatchError, ShapeError
from weft.types import Adapter, Factors


def concat(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """One adapter whose delta is the weighted sum of the deltas, whatever the ranks, scalings and sites.

    Where all contributions share one scale it stays outside and the factors keep their numbers; otherwise the
    scales are multiplied into B, in float32 at least. Gradients flow to the factors.

    Raises ShapeError for no adapters, another number of weights, or one module path in two sizes, and
    BaseMismatchError for adapters of different bases.

    Args:
        adapters: One or more, of one base.
        weights: One number for each.

    Example:
        >>> from weft.adapters import concat
        >>> a, b = (weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort"))
        >>> concat([a, b], [0.5, 0.5]).rank == a.rank + b.rank
        True
    """
    if not adapters or len(adapters) != len(weights):
        raise ShapeError(f"{len(adapters)} adapters and {len(weights)} weights; need as many, at least one")
    bases = {adapter.base for adapter in adapters if adapter.base}
    if len(bases) > 1:
        raise BaseMismatchError(f"adapters of different bases cannot be added: {', '.join(sorted(bases))}")
    sites = sorted({site for adapter in adapters for site in adapter.factors})
    if len({site.path for site in sites}) < len(sites):
        raise ShapeError("one module path has different sizes in two adapters")
    factors = {}
    for site in sites:
        parts = [(a.factors[site], w) for a, w in zip(adapters, weights, strict=True) if site in a.factors]
        factors[site] = _join([part for part, _ in parts], [part.scaling * w for part, w in parts])
    provenance: dict[str, Any] = {
        "method": "concat",
        "parents": [adapter.name for adapter in adapters],
        **inherited(adapters),
        "weights": [float(weight) for weight in weights],
    }
    names = sorted({base_model(adapter) for adapter in adapters} - {""})
    if names:
        provenance["base_model"] = names[0]
    return Adapter(factors, base=next(iter(bases), ""), name="concat", provenance=provenance)


def in_float64(adapter: Adapter) -> Adapter:
    """The same numbers in a wider type, so that summing or stacking rounds nothing."""
    factors = {
        site: Factors(a_RI.double(), b_OR.double(), scaling)
        for site, (a_RI, b_OR, scaling) in adapter.factors.items()
    }
    return replace(adapter, factors=factors)


def _join(parts: list[Factors], scales: list[float]) -> Factors:
    a_RI = torch.cat([part.a_RI for part in parts])
    if len(set(scales)) == 1:
        return Factors(a_RI, torch.cat([part.b_OR for part in parts], dim=1), scales[0])
    wide = torch.promote_types(a_RI.dtype, torch.float32)
    b_OR = torch.cat([part.b_OR.to(wide) * scale for part, scale in zip(parts, scales, strict=True)], dim=1)
    return Factors(a_RI.to(wide), b_OR, 1.0)
