"""Questions asked under adapters of texts: how many are answered rightly, and whether two texts differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.experiments.dynamic.table import share
from weft.host import Host
from weft.hyper.context import batched
from weft.tasks import Encoded
from weft.tasks.batch import pad_id
from weft.train.answer_logits import answer_logits
from weft.train.packing import pack
from weft.types import Adapter, Bank, Mixture

_TOGETHER = 8
"""Documents whose questions are asked in one forward."""


def share_right(host: Host, adapters: Sequence[Adapter] | None, rows: Sequence[Sequence[Encoded]]) -> float:
    """The share of rows answered rightly; the rows of a place under the adapter of that place."""
    right, total = zip(*_count_right(host, adapters, rows), strict=True)
    return sum(right) / sum(total)


def rights(host: Host, adapters: Sequence[Adapter] | None, rows: Sequence[Sequence[Encoded]]) -> list[float]:
    """For every place the share of its rows that is answered rightly, under the adapter of that place."""
    return [right / total for right, total in _count_right(host, adapters, rows)]


@torch.no_grad()
def _count_right(
    host: Host, adapters: Sequence[Adapter] | None, rows: Sequence[Sequence[Encoded]]
) -> list[tuple[int, int]]:
    """Right answers and rows of every place."""
    found = []
    for places in batched(range(len(rows)), _TOGETHER):
        packed = pack([list(rows[k]) for k in places], pad_id=pad_id(host))
        mixture = None
        if adapters is not None:
            mixture = Mixture.rows(Bank.stack([adapters[k] for k in places]), range(len(places)))
        said = answer_logits(host, mixture, packed)
        right_B, total_B = packed.count_right_by_line(said.logits_NV, said.targets_N)
        found += zip(right_B.tolist(), total_B.tolist(), strict=True)
    return found


@torch.no_grad()
def share_equal(
    host: Host, one: Sequence[Adapter], other: Sequence[Adapter], rows: Sequence[Sequence[Encoded]]
) -> float:
    """The share of places whose first question has the same logits, bit for bit, under both."""
    same = []
    for first, second, of_one in zip(one, other, rows, strict=True):
        ids_BT = torch.tensor([of_one[0].ids])
        same.append(torch.equal(*(host(ids_BT, Mixture.of(adapter)).logits for adapter in (first, second))))
    return share(same)
