"""K adapters in, one adapter out, by the name of a method."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from weft.adapters import inherited, norm
from weft.adapters.card import base_model
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.merging.breadcrumbs import breadcrumbs
from weft.merging.concat import concat
from weft.merging.dare import dare_linear, dare_ties
from weft.merging.della import della
from weft.merging.fisher import fisher
from weft.merging.knots import knots
from weft.merging.linear import linear
from weft.merging.low_rank import check_rank
from weft.merging.magnitude_prune import magnitude_prune
from weft.merging.peft_linear import peft_linear
from weft.merging.regmean import regmean
from weft.merging.slerp import slerp
from weft.merging.sources import Merged, Sources, Weights, gather
from weft.merging.svd import svd
from weft.merging.task_arithmetic import task_arithmetic
from weft.merging.ties import ties
from weft.types import Adapter

METHODS: Mapping[str, Callable[..., Merged]] = MappingProxyType(
    {
        "concat": concat,
        "svd": svd,
        "linear": linear,
        "peft_linear": peft_linear,
        "task_arithmetic": task_arithmetic,
        "ties": ties,
        "dare_linear": dare_linear,
        "dare_ties": dare_ties,
        "della": della,
        "breadcrumbs": breadcrumbs,
        "magnitude_prune": magnitude_prune,
        "knots": knots,
        "fisher": fisher,
        "regmean": regmean,
        "slerp": slerp,
    }
)
"""Name -> pure function on `Sources`; its keyword arguments are the options of the method, `rank` checked."""


@torch.no_grad()
def merge(
    method: str, adapters: Sequence[Adapter], *, weights: Weights | None = None, **options: Any
) -> Adapter:
    """Merge adapters of one base into one adapter.

    Weights are one number per adapter (1/K each unless given), or such numbers per layer. Options are those
    of the method, see `options_of`. Ranks, scalings and sites of the adapters may differ, but for
    `peft_linear`. The provenance of the result names method, parents, weights, options, and at
    `truncation_error` what its rank has lost, relative to the norm of the exact result: per site, and in
    total.

    Raises UnknownNameError for a method, ConfigError for an option, and what `gather` raises for adapters and
    weights; all of it before any work.

    Args:
        method: One of `METHODS`.
        adapters: One or more, of one base.
        weights: One number per adapter, or such numbers per layer; 1/K each unless given.
        options: Of the method.

    Example:
        >>> a, b = (weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort"))
        >>> merged = weft.merge("ties", [a, b], weights=[0.6, 0.4], density=0.2)
        >>> merged.provenance["method"], merged.provenance["weights"]
        ('ties', [0.6, 0.4])
    """
    known = options_of(method)
    for name in options:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ConfigError(f"{method} has no option {name}{nearest(name, known)}; {takes}")
    for name, parameter in known.items():
        if name not in options and parameter.default is inspect.Parameter.empty:
            raise ConfigError(f"{method} needs the option {name} (--{name} on the command line)")
        if name in options:
            _check_kind(name, options[name], parameter)
    sources = gather(adapters, weights)
    check_rank(options.get("rank"))
    merged = METHODS[method](sources, **options)
    values = {name: p.default for name, p in known.items() if p.default is not inspect.Parameter.empty}
    return Adapter(
        MappingProxyType({site: merged.factors[site] for site in sources.sites}),
        base=next((adapter.base for adapter in adapters if adapter.base), ""),
        name=method,
        provenance=MappingProxyType(_provenance(method, sources, {**values, **options}, merged)),
    )


def options_of(method: str) -> dict[str, inspect.Parameter]:
    """Name -> parameter of every option of a method. Raises UnknownNameError, the nearest method offered."""
    if method not in METHODS:
        raise UnknownNameError(
            f"no merge method {method}{nearest(method, METHODS)}; there are {', '.join(METHODS)}"
        )
    parameters = list(inspect.signature(METHODS[method]).parameters.items())
    return dict(parameters[1:])


def _check_kind(name: str, value: Any, parameter: inspect.Parameter) -> None:
    """Refuse text for a number and the like, which would fail later, in the middle of the work."""
    kinds = {"float": (int, float), "int": int, "int | None": (int, type(None)), "bool": bool, "str": str}
    wanted = kinds.get(str(parameter.annotation))
    if wanted is None:
        return
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{name} is {value!r}, it should be of type {parameter.annotation}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}, it should be a finite number")


def _provenance(method: str, sources: Sources, options: Mapping[str, Any], merged: Merged) -> dict[str, Any]:
    provenance: dict[str, Any] = {
        "method": method,
        "parents": [adapter.name for adapter in sources.adapters],
        **inherited(sources.adapters),
        "weights": _weights_told(sources),
        "options": {k: v for k, v in options.items() if v is None or isinstance(v, bool | int | float | str)},
        "truncation_error": {
            "total": _total_lost(merged),
            "sites": {site.path: lost for site, lost in merged.lost.items() if lost},
        },
    }
    names = sorted({base_model(adapter) for adapter in sources.adapters} - {""})
    if names:
        provenance["base_model"] = names[0]
    return provenance


def _weights_told(sources: Sources) -> list[float] | dict[str, list[float]]:
    """One list where all layers have the same weights, else one per layer."""
    if len(set(sources.weights.values())) == 1:
        return list(next(iter(sources.weights.values())))
    return {str(site.layer): list(weights) for site, weights in sources.weights.items()}


def _total_lost(merged: Merged) -> float:
    """The loss over all sites; what is kept is at right angles to it: |kept|^2 = (1 - lost^2) |exact|^2."""
    if not any(merged.lost.values()):
        return 0.0
    lost = exact = 0.0
    for site, factors in merged.factors.items():
        whole = norm(Adapter({site: factors})) ** 2 / (1.0 - merged.lost[site] ** 2)
        exact += whole
        lost += merged.lost[site] ** 2 * whole
    return math.sqrt(lost / exact)
