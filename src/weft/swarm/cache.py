"""Rows whose keys and values lie with the stages of a spread host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weft.errors import ShapeError
from weft.rows import AbstractCache, AbstractHost
from weft.swarm.journal import RowJournal

Everywhere = Callable[[str, int, Mapping[str, Any]], None]
"""(kind, session, values): one call of a session at every stage."""


class SwarmCache(AbstractCache):
    """Rows of one session, and their journals. `everywhere` tells all stages of a change."""

    def __init__(self, host: AbstractHost, everywhere: Everywhere, session: int) -> None:
        self.host, self.session = host, session
        self._everywhere = everywhere
        self.rows: list[RowJournal] = []

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens of each row the stages hold."""
        return [row.length for row in self.rows]

    @property
    def starts(self) -> Sequence[int]:
        """The position of the first token held of each row."""
        return [row.first for row in self.rows]

    def join(self, other: AbstractCache, rows: Sequence[int]) -> None:
        """Add some rows of another cache of the same host. Raises ShapeError for one of another kind."""
        if not isinstance(other, SwarmCache) or other.host is not self.host or other is self:
            raise ShapeError("rows join a cache of the same host")
        self._everywhere("join", self.session, {"other": other.session, "rows": list(rows)})
        self.rows += [other.rows[row].copy() for row in rows]

    def leave(self, row: int) -> None:
        """Drop one row; the last one takes its place."""
        self._everywhere("leave", self.session, {"row": row})
        self.rows[row] = self.rows[-1]
        self.rows.pop()

    def cut(self, row: int, count: int) -> None:
        """Drop the first tokens of one row. Raises ShapeError where there are not more than `count`."""
        if not 0 <= count < self.rows[row].length:
            raise ShapeError(f"cannot cut {count} tokens from a row of {self.rows[row].length}")
        self._everywhere("cut", self.session, {"row": row, "count": count})
        self.rows[row].cut(count)
