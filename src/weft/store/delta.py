"""One adapter from the versions of several sides, in delta space: what they compute, whatever their factors.

    modules that one side changed     that side's tensors, as they are
    the others                        a merge of the deltas s B A of the sides that changed them
    task_arithmetic                   delta_0 + scaling * sum_k w_k (delta_k - delta_0), 0 the common ancestor

Where the sides' configs differ, the config counts as part of every module, for it holds the scaling.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, count, takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from weft.adapters import save
from weft.adapters.card import base_model
from weft.errors import ConfigError
from weft.files import nearest
from weft.merging import merge, options_of
from weft.store.folder import Parts, take_apart
from weft.store.git import Git
from weft.store.layout import CONFIG, file_of
from weft.store.numbers import one_thread
from weft.store.pieces import piece_file
from weft.store.sides import Sides
from weft.store.stored import Stored, manifest_of
from weft.store.three_way import alive
from weft.store.values import load_stored
from weft.types import Adapter, Factors, Site

_ANCESTOR = "task_arithmetic"

Halves = tuple[tuple[str, ...], tuple[str, ...]]
State = tuple[Halves, str] | None
"""A module of one side: ids of lora_A and lora_B, by pieces, and of the config; None where it lacks it."""


class Joined(NamedTuple):
    """The files of the result, and the largest relative error of a rank that was cut."""

    parts: Parts
    lost: float


def check_method(method: str, options: Mapping[str, Any]) -> None:
    """Raise UnknownNameError for a method, ConfigError for one that needs data or lacks an option."""
    known = options_of(method)
    if {"fisher", "gram"} & known.keys():
        raise ConfigError(f"{method} learns from data, which a store has not; use `weft merge`, then `add`")
    for option in options:
        if option not in known:
            raise ConfigError(f"{method} has no option {option}{nearest(option, known)}")


def join(
    git: Git,
    sides: Sides,
    method: str,
    weights: Sequence[float] | None,
    options: Mapping[str, Any],
) -> Joined:
    """Merge one adapter. Raises what `check_method`, `weft.load`, `weft.save` and the merge raise."""
    check_method(method, options)
    left = sides.alive()
    stored = {k: state for k in left if (state := sides.states[k])}
    loaded = {k: _load(git, state, sides.commits[k]) for k, state in stored.items()}
    modules = {k: {site.path: site for site in adapter.factors} for k, adapter in loaded.items()}
    paths = sorted({path for known in modules.values() for path in known})
    same_config = len({state.texts[CONFIG] for state in stored.values()}) == 1
    factors: dict[Site, Factors] = {}
    groups: dict[tuple[int, ...], list[str]] = {}
    for path in paths:
        states = [_state(sides.states[k], path) for k in left]
        before = {
            (a, b): tuple(_state(one, path) for one in sides.bases[left[a], left[b]])
            for a, b in combinations(range(len(left)), 2)
        }
        in_question = alive(states, before)
        distinct = {states[a]: left[a] for a in reversed(in_question)}
        if len(distinct) == 1:
            k = next(iter(distinct.values()))
            if path in modules.get(k, {}):
                factors[modules[k][path]] = loaded[k].factors[modules[k][path]]
            continue
        spliced = _splice(states, before) if same_config else None
        if spliced is not None:
            at_a, at_b = (left[a] for a in spliced)
            site = modules[at_a][path]
            a_RI, _, scaling = loaded[at_a].factors[site]
            factors[site] = Factors(a_RI, loaded[at_b].factors[modules[at_b][path]].b_OR, scaling)
        else:
            groups.setdefault(tuple(sorted(distinct.values())), []).append(path)
    ancestor = sides.ancestor(git) if method == _ANCESTOR and groups else None
    origin = _load(git, ancestor, "ancestor") if ancestor else None
    facts: dict[str, Any] = {}
    lost = 0.0
    for ks, chosen in groups.items():
        sources = [_only(loaded[k], chosen) for k in ks]
        given = None if weights is None else [weights[k] for k in ks]
        if method == _ANCESTOR:
            sources, given = _relative(sources, given, origin and _only(origin, chosen), options)
        with one_thread():
            merged = merge(method, sources, weights=given, **options)
        factors |= merged.factors
        error = merged.provenance.get("truncation_error", {})
        lost = max(lost, error.get("total", 0.0))
        facts |= error.get("sites", {})
    whole = Adapter(
        MappingProxyType(factors),
        base=next((adapter.base for adapter in loaded.values() if adapter.base), ""),
        name=sides.name,
        # A config that targets all modules of the result, else a new one is made.
        peft_config=next((x.peft_config for x in loaded.values() if x.factors.keys() >= factors.keys()), {}),
        provenance={
            "method": method,
            "parents": [sides.commits[k] for k in left],
            "truncation_error": {"total": lost, "sites": facts},
            "base_model": next((name for x in loaded.values() if (name := base_model(x))), ""),
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        save(whole, Path(folder) / sides.name)
        return Joined(take_apart(Path(folder) / sides.name), lost)


def _load(git: Git, stored: Stored, name: str) -> Adapter:
    return replace(load_stored(git, stored, manifest_of(git, stored).base or ""), name=name[:12])


def _state(stored: Stored | None, path: str) -> State:
    if stored is None:
        return None
    a, b = (_pieces(stored, file_of(f"base_model.model.{path}.lora_{half}.weight")) for half in "AB")
    return None if not a and not b else ((a, b), stored.texts[CONFIG])


def _pieces(stored: Stored, file: str) -> tuple[str, ...]:
    files = (piece_file(file, number) for number in count())
    return tuple(takewhile(bool, (stored.tensors.get(piece, "") for piece in files)))


def _splice(
    states: Sequence[State], before: Mapping[tuple[int, int], tuple[State, ...]]
) -> tuple[int, int] | None:
    """Where to take A and B from, when no side changed what another did; one config means one rank."""
    found = []
    for half in (0, 1):
        values = [state and state[0][half] for state in states]
        left = alive(values, {pair: tuple(s and s[0][half] for s in ss) for pair, ss in before.items()})
        if len({values[k] for k in left}) > 1 or not values[left[0]]:
            return None
        found.append(left[0])
    return found[0], found[1]


def _only(adapter: Adapter, paths: Iterable[str]) -> Adapter:
    kept = set(paths)
    factors = {site: f for site, f in adapter.factors.items() if site.path in kept}
    return replace(adapter, factors=MappingProxyType(factors))


def _relative(
    sources: list[Adapter], weights: list[float] | None, origin: Adapter | None, options: Mapping[str, Any]
) -> tuple[list[Adapter], list[float]]:
    """Task vectors count from the ancestor, so it comes in with the weight that they leave of it."""
    scaling = options.get("scaling", 1.0)
    weights = [1.0] * len(sources) if weights is None else weights
    if not scaling:
        raise ConfigError("scaling is 0, which leaves nothing of any side")
    if origin is None or not origin.factors:
        return sources, weights
    return [*sources, origin], [*weights, 1.0 / scaling - sum(weights)]
