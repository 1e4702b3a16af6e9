"""What the layers of a local host have read: keys and values of rows of any length, side by side.

Every layer keeps one block of keys and one of values, [rows, heads, tokens, features], with room to grow.
Row i of the batch is row i of the block and begins at its column 0, so a decode step writes one column per
row in place and reads a view. A row that joins is copied to the end, and the last row moves into the place
of one that leaves. Keys carry the rotation of the position that they were read at, so cutting tokens from
the front leaves the distances between the others as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from weft.errors import ShapeError
from weft.rows import AbstractCache

_COLUMNS = 64
"""Blocks grow to the next multiple of so many tokens, and by half of what they are."""


class RowCache(AbstractCache):
    """Keys and values of the rows of a local host, a block per layer; begins without rows."""

    def __init__(self, layers: int) -> None:
        self.layers = [_Layer(self) for _ in range(layers)]
        self._lengths: list[int] = []
        self._starts: list[int] = []
        self.write_BT: Tensor | None = None
        """Columns that the step under way writes; None when all rows write the same ones."""
        self.first = 0
        self.columns = 0
        """The step under way sees so many columns."""
        self.written: list[Tensor] | None = None
        """A list that takes the keys and values of the step under way by layer, [B, heads, T, features]."""

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens of each row are held."""
        return self._lengths

    @property
    def starts(self) -> Sequence[int]:
        """The position of the first token held of each row."""
        return self._starts

    def begin(self, starts: Sequence[int]) -> None:
        """Rows that hold nothing yet, each from a position on; the cache has to be empty."""
        self._lengths, self._starts = [0] * len(starts), list(starts)

    def open(self, tokens: int, device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Make ready for a step of so many tokens: the columns that it writes, and their positions."""
        self.columns = max(self._lengths, default=0) + tokens
        first_B = torch.tensor(self._lengths, device=device)
        columns_BT = first_B[:, None] + torch.arange(tokens, device=device)
        same = len(set(self._lengths)) == 1
        self.first, self.write_BT = self._lengths[0], None if same else columns_BT
        if not any(self._starts):
            return columns_BT, columns_BT
        return columns_BT, columns_BT + torch.tensor(self._starts, device=device)[:, None]

    def close(self, counts: Sequence[int]) -> None:
        """Keep `counts[i]` of the tokens that a step has written for row i."""
        self._lengths = [length + count for length, count in zip(self._lengths, counts, strict=True)]

    def join(self, other: AbstractCache, rows: Sequence[int]) -> None:
        """Add some rows of another cache of the same host. Raises ShapeError for one of another kind."""
        if not isinstance(other, RowCache) or len(other.layers) != len(self.layers):
            raise ShapeError("rows join a cache of the same host")
        columns = max(other.lengths[row] for row in rows)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.join(theirs, len(self._lengths), rows, columns)
        self._lengths += [other.lengths[row] for row in rows]
        self._starts += [other.starts[row] for row in rows]

    def leave(self, row: int) -> None:
        """Drop one row; the last one takes its place."""
        last = len(self._lengths) - 1
        if self._lengths[row] and not self.layers[-1].is_finite(row, self._lengths[row] - 1):
            for layer in self.layers:  # whoever takes the place masks what is left, and 0 times NaN is NaN
                layer.wipe(row)
        if row != last:
            for layer in self.layers:
                layer.move(last, row, self._lengths[last])
            self._lengths[row], self._starts[row] = self._lengths[last], self._starts[last]
        self._lengths.pop()
        self._starts.pop()

    def cut(self, row: int, count: int) -> None:
        """Drop the first tokens of one row. Raises ShapeError where there are not more than `count`."""
        if not 0 <= count < self._lengths[row]:
            raise ShapeError(f"cannot cut {count} tokens from a row of {self._lengths[row]}")
        for layer in self.layers:
            layer.cut(row, count, self._lengths[row])
        self._lengths[row] -= count
        self._starts[row] += count

    def trim(self, row: int, count: int) -> None:
        """Keep the first `count` tokens of one row alone. Raises ShapeError where there are fewer."""
        if not 0 < count <= self._lengths[row]:
            raise ShapeError(f"cannot keep {count} tokens of a row of {self._lengths[row]}")
        self._lengths[row] = count

    def fill(self, start: int, length: int, written: Tensor) -> None:
        """Add a row that holds what another cache had, [2 L, heads, T, features], from a position on."""
        place = len(self._lengths)
        for layer, keys, values in zip(self.layers, written[0::2], written[1::2], strict=True):
            layer.fill(place, keys, values)
        self._lengths.append(length)
        self._starts.append(start)

    def visible(
        self, columns_BT: Int[Tensor, "B T"], sliding: int | None = None
    ) -> Bool[Tensor, "B 1 T C"] | None:
        """What every new token attends to: the columns of its row up to its own, the last `sliding` of them.

        None where each sees all there is.
        """
        if (
            self.write_BT is None
            and columns_BT.shape[1] == 1
            and (sliding is None or self.columns <= sliding)
        ):
            return None
        seen_C = torch.arange(self.columns, device=columns_BT.device)
        visible_BTC = seen_C <= columns_BT[..., None]
        if sliding is not None:
            visible_BTC &= seen_C > columns_BT[..., None] - sliding
        return visible_BTC[:, None]

    def as_hugging_face(self) -> Cache:
        """What a Hugging Face model takes as `past_key_values`: the same layers."""
        return Cache(layers=list(self.layers))


class _Layer(CacheLayerMixin):
    """One layer's blocks, in the form that Hugging Face's attention calls."""

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros(0, key_states.shape[1], 0, key_states.shape[3])
        self.values = value_states.new_zeros(0, value_states.shape[1], 0, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        cache = self.cache
        rows, tokens = key_states.shape[0], key_states.shape[2]
        if cache.written is not None:
            cache.written += (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.reserve(rows, cache.columns)
        assert self.keys is not None
        assert self.values is not None
        if cache.write_BT is None:
            self.keys[:rows, :, cache.first : cache.first + tokens] = key_states
            self.values[:rows, :, cache.first : cache.first + tokens] = value_states
        else:
            row_B1 = torch.arange(rows, device=key_states.device)[:, None]
            self.keys[row_B1, :, cache.write_BT] = key_states.transpose(1, 2)
            self.values[row_B1, :, cache.write_BT] = value_states.transpose(1, 2)
        return self.keys[:rows, :, : cache.columns], self.values[:rows, :, : cache.columns]

    def reserve(self, rows: int, columns: int) -> None:
        """Make the blocks at least so large."""
        assert self.keys is not None
        assert self.values is not None
        room_rows, room = self.keys.shape[0], self.keys.shape[2]
        if rows <= room_rows and columns <= room:
            return
        rows = room_rows if rows <= room_rows else max(rows, room_rows + room_rows // 2)
        if columns > room:
            columns = -(-max(columns, room + room // 2) // _COLUMNS) * _COLUMNS
        self.keys = _grown(self.keys, rows, max(columns, room))
        self.values = _grown(self.values, rows, max(columns, room))

    def join(self, other: _Layer, place: int, rows: Sequence[int], columns: int) -> None:
        assert other.keys is not None
        assert other.values is not None
        if not self.is_initialized:
            self.lazy_initialization(other.keys, other.values)
        self.reserve(place + len(rows), columns)
        assert self.keys is not None
        assert self.values is not None
        for row in rows:
            self.keys[place, :, :columns] = other.keys[row, :, :columns]
            self.values[place, :, :columns] = other.values[row, :, :columns]
            place += 1

    def fill(self, place: int, keys: Tensor, values: Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(keys[None], values[None])
        self.reserve(place + 1, keys.shape[1])
        assert self.keys is not None
        assert self.values is not None
        self.keys[place, :, : keys.shape[1]] = keys
        self.values[place, :, : values.shape[1]] = values

    def move(self, source: int, target: int, columns: int) -> None:
        for block in (self.keys, self.values):
            assert block is not None
            block[target, :, :columns] = block[source, :, :columns]

    def is_finite(self, row: int, column: int) -> bool:
        """Of the last layer: NaN in an earlier one, or at an earlier token, has come through by then."""
        assert self.keys is not None
        assert self.values is not None
        token = torch.stack([self.keys[row, :, column].sum(), self.values[row, :, column].sum()])
        return bool(token.isfinite().all())

    def wipe(self, row: int) -> None:
        for block in (self.keys, self.values):
            assert block is not None
            block[row].zero_()

    def cut(self, row: int, count: int, length: int) -> None:
        for block in (self.keys, self.values):
            assert block is not None
            block[row, :, : length - count] = block[row, :, count:length].clone()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.columns, 0

    def get_seq_length(self) -> int:
        return self.cache.first

    def get_max_length(self) -> int:
        return -1


def _grown(block: Tensor, rows: int, columns: int) -> Tensor:
    # Zeros, not garbage: a masked column is multiplied by 0, and 0 times NaN is NaN.
    grown = block.new_zeros(rows, block.shape[1], columns, block.shape[3])
    grown[: block.shape[0], :, : block.shape[2]] = block
    return grown
