"""What a stage keeps by its hash: adapters, banks, gates, assignments and decisions, as values and tensors.

Nothing that runs is sent: a gate travels as the name of its kind, its options and its numbers, and a stage
knows the kinds that `weft.route` has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from weft.adapters import site_at
from weft.errors import ConfigError, MessageError, WeftError
from weft.plain import reason_of
from weft.route import Arrow, LayerWeights, Smear, Spectr, Top1, TreeGate, XLora
from weft.swarm.message import Message
from weft.types import (
    AbstractGate,
    Adapter,
    Assignment,
    Bank,
    Decision,
    Dense,
    Factors,
    Rows,
    State,
    Tokens,
    TopK,
)


@dataclass(frozen=True, eq=False)
class Thing:
    """Something that a stage keeps: its sort, JSON values, tensors."""

    sort: str
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @cached_property
    def key(self) -> str:
        """SHA-256 of all of it; the stage checks it."""
        digest = hashlib.sha256(f"{self.sort} {_sorted(self.fields)}\n".encode())
        for name, tensor in sorted(self.tensors.items()):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def of_adapter(adapter: Adapter) -> Thing:
    """An adapter, or its part at a stage."""
    tensors = {}
    for i, factors in enumerate(adapter.factors.values()):
        tensors[f"a{i}"], tensors[f"b{i}"] = factors.a_RI, factors.b_OR
    sites = [[site.path, float(factors.scaling)] for site, factors in adapter.factors.items()]
    return Thing("adapter", {"sites": sites, "name": adapter.name}, tensors)


def of_bank(bank: Bank, paths: set[str]) -> Thing | None:
    """A bank at some sites; None where it has none of them."""
    sites = [site for site in bank.sites if site.path in paths]
    if not sites:
        return None
    tensors = {}
    for i, site in enumerate(sites):
        tensors[f"a{i}"], tensors[f"b{i}"] = bank.a[site], bank.b[site]
    return Thing("bank", {"sites": [site.path for site in sites], "names": list(bank.names)}, tensors)


def of_assignment(assignment: Assignment) -> Thing:
    """Who acts on a row, decided before the forward."""
    kind, tensors = _parts(assignment)
    return Thing("assignment", {"kind": kind}, tensors)


def of_state(state: State) -> Thing:
    """What a gate decided, by layer."""
    layers, tensors = [], {}
    for i, (layer, decision) in enumerate(state.items()):
        kind, parts = _parts(decision.assignment)
        layers.append([layer, decision.place, kind])
        tensors |= {f"{i}.{name}": tensor for name, tensor in parts.items()}
        tensors[f"{i}.logits"] = decision.logits
    return Thing("state", {"layers": layers}, tensors)


def of_gate(gate: AbstractGate) -> Thing:
    """A gate. Raises ConfigError for one that is of no kind that stages know."""
    options: dict[str, Any]
    match gate:
        case TreeGate():
            options = {"leaves": list(gate.leaves), "dim": gate.dim, "scope": gate.scope}
            options |= {"layers": list(gate.layers), "descent": gate.descent, "temperature": gate.temperature}
        case XLora() | Top1():
            inner = gate.router if isinstance(gate, Top1) else gate
            count, dim = inner.weight_LKH.shape[1:]
            options = {"count": count, "dim": dim, "layers": list(inner.layers), "top_k": inner.top_k}
            options |= {"norm_topk_prob": inner.norm_topk_prob, "temperature": inner.temperature}
        case Smear():
            options = dict(zip(("count", "dim"), gate.weight_KH.shape, strict=True))
        case LayerWeights():
            options = {"count": gate.value_LK.shape[1], "layers": list(gate.layers), "kind": gate.kind}
        case Arrow() | Spectr():
            options = {"top_k": gate.top_k, "temperature": gate.temperature}
        case _:
            raise ConfigError(
                f"a spread host does not run a {type(gate).__name__}; run this gate on a local host"
            )
    return Thing("gate", {"kind": type(gate).__name__, "options": options}, gate.state_dict())


_GATES: Mapping[str, Callable[..., AbstractGate]] = {
    "TreeGate": TreeGate,
    "XLora": XLora,
    "Top1": lambda **options: Top1(XLora(**options)),
    "Smear": Smear,
    "LayerWeights": LayerWeights,
}
_SPECTRAL: Mapping[str, Callable[..., AbstractGate]] = {"Arrow": Arrow, "Spectr": Spectr}


def to_adapter(thing: Thing) -> Adapter:
    """The adapter that was sent. Raises MessageError for what is none."""
    told = Message(thing.fields, thing.tensors)
    factors = {}
    for place, entry in enumerate(told.list("sites")):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise MessageError("a site of an adapter is its path and its scaling")
        a_RI, b_OR = told.tensor(f"a{place}", 2), told.tensor(f"b{place}", 2)
        if not (a_RI.is_floating_point() and b_OR.is_floating_point() and len(a_RI) == b_OR.shape[1]):
            raise MessageError(f"the factors of {entry[0]!r:.80} do not fit each other")
        if type(entry[1]) not in (int, float):
            raise MessageError("the scaling of an adapter is a number")
        factors[site_at(entry[0], a_RI.shape[1], len(b_OR))] = Factors(a_RI, b_OR, float(entry[1]))
    if not factors:
        raise MessageError("an adapter changes a site or more")
    return Adapter(factors, name=told.text("name"))


def to_bank(thing: Thing) -> Bank:
    """The bank that was sent. Raises MessageError for what is none."""
    told = Message(thing.fields, thing.tensors)
    names, a, b = told.list("names"), {}, {}
    if not names or not all(isinstance(name, str) for name in names):
        raise MessageError("a bank names its adapters")
    for place, path in enumerate(told.list("sites")):
        a_KRI, b_KOR = told.tensor(f"a{place}", 3), told.tensor(f"b{place}", 3)
        if not isinstance(path, str) or not (a_KRI.is_floating_point() and b_KOR.is_floating_point()):
            raise MessageError("a bank has paths and floating-point factors")
        site = site_at(path, a_KRI.shape[2], b_KOR.shape[1])
        a[site], b[site] = a_KRI, b_KOR
    try:
        return Bank(tuple(names), a, b)
    except WeftError as error:
        raise MessageError(f"a bank does not fit itself: {error}") from error


def to_gate(thing: Thing, bank: Bank) -> AbstractGate:
    """The gate that was sent, frozen, over the bank that it chooses from. Raises MessageError."""
    kind, options = str(thing.fields.get("kind")), thing.fields.get("options")
    if not isinstance(options, dict):
        raise MessageError("a gate has options")
    try:
        if kind in _SPECTRAL:
            gate = _SPECTRAL[kind](bank, **options)
        elif kind in _GATES:
            gate = _GATES[kind](**options)
        else:
            raise MessageError(f"no kind of gate {kind!r:.40} is known here")
        gate.load_state_dict(dict(thing.tensors))
    except (WeftError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise MessageError(f"a gate cannot be made: {reason_of(error)}") from error
    return gate.eval().requires_grad_(False)


def to_assignment(thing: Thing) -> Assignment:
    """The assignment that was sent. Raises MessageError for what is none."""
    return _joined(thing.fields.get("kind"), thing.tensors)


def to_state(thing: Thing) -> State:
    """What was decided. Raises MessageError for what is no decision."""
    told, state = Message(thing.fields, thing.tensors), {}
    for i, entry in enumerate(told.list("layers")):
        if not (isinstance(entry, list) and len(entry) == 3 and type(entry[0]) is int):
            raise MessageError("a decision has a layer, a place and a kind")
        parts = {name: thing.tensors.get(f"{i}.{name}") for name in ("index", "weight", "logits")}
        given = {name: tensor for name, tensor in parts.items() if tensor is not None}
        if "logits" not in given:
            raise MessageError("a decision has logits")
        state[entry[0]] = Decision(str(entry[1]), given["logits"], _joined(entry[2], given))
    return state


def _parts(assignment: Assignment) -> tuple[str, dict[str, Tensor]]:
    match assignment:
        case Rows(index) | Tokens(index):
            return type(assignment).__name__, {"index": index}
        case TopK(index, weight):
            return "TopK", {"index": index, "weight": weight}
        case Dense(weight):
            return "Dense", {"weight": weight}


def _joined(kind: Any, tensors: Mapping[str, Tensor]) -> Assignment:
    index, weight = tensors.get("index"), tensors.get("weight")
    dims = (None if index is None else index.dim(), None if weight is None else weight.dim())
    match kind:
        case "Rows" if index is not None and dims[0] == 1:
            return Rows(index)
        case "Tokens" if index is not None and dims[0] == 2:
            return Tokens(index)
        case "TopK" if index is not None and weight is not None and dims == (3, 3):
            return TopK(index, weight)
        case "Dense" if weight is not None and dims[1] in (2, 3):
            return Dense(weight)
    raise MessageError(f"no assignment of kind {kind!r:.40} with these tensors")


def _sorted(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, allow_nan=False)
