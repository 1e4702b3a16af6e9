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


@torch.no_grad()
def share_right(host: Host, adapters: Sequence[Adapter] | None, rows: Sequence[Sequence[Encoded]]) -> float:
    """The share of rows answered rightly; the rows of a place under the adapter of that place."""
    right = total = 0
    for places in batched(range(len(rows)), _TOGETHER):
        packed = pack([list(rows[k]) for k in places], pad_id=pad_id(host))
        mixture = None
        if adapters is not None:
            mixture = Mixture.rows(Bank.stack([adapters[k] for k in places]), range(len(places)))
        said = answer_logits(host, mixture, packed)
        correct, count = packed.count_right(said.logits_NV, said.targets_N)
        right, total = right + correct, total + count
    return right / max(total, 1)


@torch.no_grad()
def rights(host: Host, adapters: Sequence[Adapter] | None, rows: Sequence[Sequence[Encoded]]) -> list[float]:
    """For every place the share of its rows that is answered rightly, under the adapter of that place."""
    asked = [(place, row) for place, several in enumerate(rows) for row in several]
    right: list[list[bool]] = [[] for _ in rows]
    for some in batched(asked, _TOGETHER):
        packed = pack([[row] for _, row in some], pad_id=pad_id(host), share_prefix=False)
        mixture = None
        if adapters is not None:
            mixture = Mixture.rows(Bank.stack([adapters[place] for place, _ in some]), range(len(some)))
        said = answer_logits(host, mixture, packed)
        right_B, _ = packed.count_right_by_line(said.logits_NV, said.targets_N)
        for (place, _), count in zip(some, right_B.tolist(), strict=True):
            right[place].append(count == 1)
    return [share(answers) for answers in right]


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
