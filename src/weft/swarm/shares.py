"""What acts on a row of a spread host, as every stage is told it: references, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from weft.errors import BaseMismatchError, UnknownNameError
from weft.rows import Share
from weft.swarm.things import Thing, of_adapter, of_assignment, of_bank, of_gate, of_state
from weft.types import AbstractGate, Adapter, Bank, Dense, Rows, Site, Term


@dataclass(frozen=True, eq=False)
class Told:
    """A share at one stage: adapters with weights and terms, by keys; and what has those keys."""

    adapters: list[list[Any]]
    """[key, weight] each."""
    terms: list[list[Any]]
    """[key of the bank, key of the gate or assignment, combine, key of the row's decisions or ""] each."""
    things: tuple[Thing, ...]

    @property
    def reference(self) -> list[Any]:
        """What a step says of the row."""
        return [self.adapters, self.terms]


class Shares:
    """Shares by stage, over the sites of each; every bank, gate and adapter is cut and hashed once."""

    def __init__(self, stages: Sequence[Sequence[Site]]) -> None:
        self._stages = [{site.path for site in sites} for sites in stages]
        self._told: WeakKeyDictionary[Share, tuple[Told, ...]] = WeakKeyDictionary()
        self._adapters: WeakKeyDictionary[Adapter, tuple[Thing | None, ...]] = WeakKeyDictionary()
        self._banks: WeakKeyDictionary[Bank, tuple[Thing | None, ...]] = WeakKeyDictionary()
        self._gates: WeakKeyDictionary[AbstractGate, Thing] = WeakKeyDictionary()
        self._taken: WeakKeyDictionary[Bank, dict[int, Adapter]] = WeakKeyDictionary()

    def told(self, share: Share) -> tuple[Told, ...]:
        """A share for every stage. Raises ConfigError for a gate that stages do not know."""
        if share not in self._told:
            named, terms = self.parted(share)
            self._told[share] = tuple(self._at(stage, named, terms) for stage in range(len(self._stages)))
        return self._told[share]

    def parted(
        self, share: Share
    ) -> tuple[list[tuple[Adapter, float]], list[tuple[Term, Thing, Thing | None]]]:
        """Adapters with fixed weights, which go into pools; and terms that need their bank."""
        named, terms = list(share.adapters), []
        for term in share.terms:
            fixed = self._fixed(term)
            if fixed is not None:
                named += fixed
            elif isinstance(term.gate, AbstractGate):
                state = share.states.get(term.gate)
                decided = of_state(state) if state else None
                terms.append((term, self._gate(term.gate), decided))
            else:
                terms.append((term, of_assignment(term.gate), None))
        return named, terms

    def _at(
        self,
        stage: int,
        named: Sequence[tuple[Adapter, float]],
        terms: Sequence[tuple[Term, Thing, Thing | None]],
    ) -> Told:
        adapters, told, things = [], [], []
        for adapter, weight in named:
            part = self._parts(adapter)[stage]
            if part is not None:
                adapters.append([part.key, float(weight)])
                things.append(part)
        for term, gate, decided in terms:
            bank = self._bank(term.bank)[stage]
            if bank is not None:
                told.append([bank.key, gate.key, term.combine, decided.key if decided else ""])
                things += [bank, gate] + ([decided] if decided else [])
        return Told(adapters, told, tuple({thing.key: thing for thing in things}.values()))

    def _parts(self, adapter: Adapter) -> tuple[Thing | None, ...]:
        if adapter not in self._adapters:
            parts = []
            for paths in self._stages:
                factors = {site: f for site, f in adapter.factors.items() if site.path in paths}
                parts.append(of_adapter(Adapter(factors, name=adapter.name)) if factors else None)
            self._adapters[adapter] = tuple(parts)
        return self._adapters[adapter]

    def _bank(self, bank: Bank) -> tuple[Thing | None, ...]:
        if bank not in self._banks:
            self._banks[bank] = tuple(of_bank(bank, paths) for paths in self._stages)
        return self._banks[bank]

    def _gate(self, gate: AbstractGate) -> Thing:
        if gate not in self._gates:
            self._gates[gate] = of_gate(gate)
        return self._gates[gate]

    def _fixed(self, term: Term) -> list[tuple[Adapter, float]] | None:
        """A term as adapters and weights, where it is a sum that is the same for every token."""
        match term.gate:
            case Rows(index) if index.numel() == 1 and term.combine == "sum":
                weights = {int(index): 1.0} if int(index) >= 0 else {}
            case Dense(weight) if weight.dim() == 2 and len(weight) == 1 and term.combine == "sum":
                weights = {k: w for k, w in enumerate(weight[0].tolist()) if w}
            case _:
                return None
        taken = self._taken.setdefault(term.bank, {})
        for k in weights:
            if k not in taken:
                taken[k] = term.bank[k]
        return [(taken[k], weight) for k, weight in weights.items()]


def check_bank(bank: Bank, sites: Iterable[Site], fingerprint: str) -> None:
    """Raise BaseMismatchError for a bank of another base, UnknownNameError for other sites than there are."""
    if bank.base and bank.base != fingerprint:
        raise BaseMismatchError(
            f"the bank of {', '.join(bank.names[:3])} belongs to base {bank.base}, "
            f"this one is {fingerprint}; load the base that it was made for"
        )
    known = {site.path for site in sites}
    unknown = next((site.path for site in bank.a if site.path not in known), None)
    if unknown is not None:
        raise UnknownNameError(f"the bank changes {unknown}, which is no site of this host")
