"""What every stage has written into its cache for a row, so that a new worker can go on where one was lost.

Keys and values come back with the answer of each step. A replacement is given the very numbers, so it says
what the lost one would have said, to the bit; and what a row has cut is let go here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class RowJournal:
    """One row: where its cache begins, and what each stage holds of it."""

    first: int
    """Position of the first token that its cache holds."""
    stages: list[list[Tensor]]
    """By stage, in pieces: keys and values of its layers in turn, [2 L, heads, T, features]."""
    length: int = field(default=0)
    """How many tokens its cache holds."""

    @classmethod
    def begin(cls, start: int, stages: int) -> RowJournal:
        """A row that nothing was read of."""
        return cls(start, [[] for _ in range(stages)])

    def read(self, written: Sequence[Tensor], count: int) -> None:
        """So many tokens were read: what each stage wrote of them."""
        for pieces, piece in zip(self.stages, written, strict=True):
            pieces.append(piece)
        self.length += count

    def cut(self, count: int) -> None:
        """Tokens left the front of its cache."""
        for stage in range(len(self.stages)):
            self.stages[stage] = [self.whole(stage)[:, :, count:].clone()]
        self.first += count
        self.length -= count

    def whole(self, stage: int) -> Tensor:
        """What a stage holds of the row, in one piece. There has to be some."""
        pieces = self.stages[stage]
        if len(pieces) > 1:
            pieces[:] = [torch.cat(pieces, 2)]
        return pieces[0]

    def copy(self) -> RowJournal:
        """The same row, which goes its own way from here; tensors are shared."""
        return RowJournal(self.first, [list(pieces) for pieces in self.stages], self.length)
