"""The shares of rows that step together, put together once and kept until a row or the pool changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from weft.host.pool import Pool
from weft.host.share import join
from weft.host.span import Acting, Plans, StackedFactors
from weft.rows import Share
from weft.types import AbstractGate, Bank, State

_KEPT = 4
"""How many groups of rows step side by side before their shares are put together anew."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What the sites of a host run while some rows step together."""

    shares: tuple[Share, ...]
    version: int
    """Of the pool when they were put together."""
    terms: tuple[Acting, ...]
    states: Mapping[AbstractGate, State]
    plans: Plans = field(default_factory=dict)


class Batches:
    """The latest batches. `checked` gives the factors of a bank that fits the host, or raises."""

    def __init__(self, checked: Callable[[Bank], StackedFactors]) -> None:
        self._checked = checked
        self._kept: OrderedDict[tuple[int, ...], Batch] = OrderedDict()

    def of(self, shares: Sequence[Share], pool: Pool | None, device: torch.device) -> Batch:
        """The batch of these rows; a pool is given where adapters act. Raises what `Pool.put` raises."""
        key = tuple(map(id, shares))  # a batch keeps its shares, so an id means one as long as it is here
        batch = self._kept.get(key)
        if batch is None or (pool is not None and batch.version != pool.version):
            joined = join(shares, pool, device)
            terms = tuple(
                Acting(one.term, self._checked(one.term.bank), one.rows_N, one.decode) for one in joined
            )
            states = {one.term.gate: one.state for one in joined if isinstance(one.term.gate, AbstractGate)}
            version = 0 if pool is None else pool.version
            batch = self._kept[key] = Batch(tuple(shares), version, terms, states)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return batch

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
