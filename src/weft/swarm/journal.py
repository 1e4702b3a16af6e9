"""What was read of every row, so that a stage that lost its cache can read it again.

A row is a list of stretches: so many tokens read under one share, then so many cut from the front. Token ids
are what the first stage read, the states at every border what the stage after it read. Tokens that were cut
stay in the journal: the states of later tokens were made while they were seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weft.types import Adapter

Weighed = tuple[tuple[Adapter, float], ...]
"""A share as it is written down: adapters, which the journal keeps, and their weights."""


@dataclass
class Stretch:
    """Tokens of a row that were read under one share."""

    share: Weighed
    count: int = 0
    cut: int = 0
    """How many tokens left the front of the cache after them."""


@dataclass
class RowJournal:
    """One row from its beginning on."""

    start: int
    """Position of its first token."""
    inputs: list[list[Tensor]]
    """What every stage read: ids [t] of the first one, states [t, H] of the others, in pieces."""
    stretches: list[Stretch] = field(default_factory=list)

    @classmethod
    def begin(cls, start: int, stages: int) -> RowJournal:
        """A row that nothing was read of."""
        return cls(start, [[] for _ in range(stages)])

    @property
    def length(self) -> int:
        """How many tokens its cache holds."""
        return sum(stretch.count - stretch.cut for stretch in self.stretches)

    @property
    def first(self) -> int:
        """The position of the first token that its cache holds."""
        return self.start + sum(stretch.cut for stretch in self.stretches)

    def read(self, inputs: Sequence[Tensor], share: Weighed) -> None:
        """Tokens were read: what each stage saw of them."""
        count = len(inputs[0])
        if not count:
            return
        for pieces, piece in zip(self.inputs, inputs, strict=True):
            pieces.append(piece)
        if not self.stretches or self.stretches[-1].cut or self.stretches[-1].share != share:
            self.stretches.append(Stretch(share))
        self.stretches[-1].count += count

    def cut(self, count: int) -> None:
        """Tokens left the front of its cache."""
        self.stretches[-1].cut += count

    def copy(self) -> RowJournal:
        """The same row, which goes its own way from here; tensors are shared."""
        stretches = [Stretch(one.share, one.count, one.cut) for one in self.stretches]
        return RowJournal(self.start, [list(pieces) for pieces in self.inputs], stretches)


@dataclass(frozen=True, eq=False)
class Reread:
    """One step of a replay, of all rows of a cache together, and the cuts after it."""

    x: Tensor
    counts: list[int]
    shares: list[Weighed]
    cuts: list[tuple[int, int]]
    """(row, count)."""


def replay(rows: Sequence[RowJournal], stage: int) -> Iterator[Reread]:
    """What a stage has to read to hold these rows: one step, and one more for every change of a row."""
    read = [torch.cat(row.inputs[stage]) for row in rows]
    at = [0] * len(rows)
    for place in range(max(len(row.stretches) for row in rows)):
        now = [row.stretches[place] if place < len(row.stretches) else Stretch(()) for row in rows]
        counts = [stretch.count for stretch in now]
        pieces = [x[i : i + count] for x, i, count in zip(read, at, counts, strict=True)]
        at = [i + count for i, count in zip(at, counts, strict=True)]
        cuts = [(row, stretch.cut) for row, stretch in enumerate(now) if stretch.cut]
        shares = [stretch.share for stretch in now]
        yield Reread(pad_sequence(pieces, batch_first=True), counts, shares, cuts)
