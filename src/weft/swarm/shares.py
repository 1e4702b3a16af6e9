"""What acts on a row of a spread host: adapters and weights, and each adapter's part at every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from weft.errors import ConfigError
from weft.host.pool import content
from weft.rows import Share
from weft.swarm.journal import Weighed
from weft.types import Adapter, Bank, Dense, Rows, Site, Term


@dataclass(frozen=True, eq=False)
class Shards:
    """The parts of an adapter by stage, each with its hash; None where it changes nothing."""

    parts: tuple[tuple[str, Adapter] | None, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for adapters that do the same."""
        return tuple(part[0] if part else "" for part in self.parts)


class Shares:
    """Shares as adapters and weights, over the sites of each stage; every bank and adapter is cut once."""

    def __init__(self, stages: Sequence[Sequence[Site]]) -> None:
        self._stages = [{site.path for site in sites} for sites in stages]
        self._shards: WeakKeyDictionary[Adapter, Shards] = WeakKeyDictionary()
        self._taken: WeakKeyDictionary[Bank, dict[int, Adapter]] = WeakKeyDictionary()

    def shards(self, adapter: Adapter) -> Shards:
        """The parts of an adapter."""
        if adapter not in self._shards:
            parts = []
            for paths in self._stages:
                factors = {site: f for site, f in adapter.factors.items() if site.path in paths}
                part = Adapter(factors, name=adapter.name)
                parts.append((content(part), part) if factors else None)
            self._shards[adapter] = Shards(tuple(parts))
        return self._shards[adapter]

    def weighed(self, share: Share) -> Weighed:
        """A share as adapters and weights.

        Raises ConfigError for gates that look at states, weights per token and averaged factors, which a
        spread host does not run yet.
        """
        named = list(share.adapters)
        for term in share.terms:
            named += self._of_term(term)
        return tuple(named)

    def _of_term(self, term: Term) -> list[tuple[Adapter, float]]:
        match term.gate:
            case Rows(index) if index.numel() == 1 and term.combine == "sum":
                weights = {int(index): 1.0} if int(index) >= 0 else {}
            case Dense(weight) if weight.dim() == 2 and len(weight) == 1 and term.combine == "sum":
                weights = {k: w for k, w in enumerate(weight[0].tolist()) if w}
            case _:
                raise ConfigError(
                    "a spread host runs adapters and blends that are fixed for a row; run gates, weights per "
                    "token and averaged factors on a local host"
                )
        taken = self._taken.setdefault(term.bank, {})
        for k in weights:
            if k not in taken:
                taken[k] = term.bank[k]
        return [(taken[k], weight) for k, weight in weights.items()]
