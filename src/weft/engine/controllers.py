"""Between two steps: gates decide on prompts, controllers hear of tokens, and rows change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weft.engine.row import Row
from weft.errors import ShapeError
from weft.host.share import take_state
from weft.rows import AbstractCache, AbstractController, AbstractHost, Change, Event, Share
from weft.types import AbstractGate


def decide(host: AbstractHost, rows: Sequence[Row], *, whole: bool = False) -> None:
    """Let the gates of rows that have not decided yet do so on the prompts, or on all that was written.

    A gate is asked once for all rows that it acts on.
    """
    asked: dict[AbstractGate, list[Row]] = {}
    for row in rows:
        for term in row.share.terms:
            if isinstance(term.gate, AbstractGate) and term.gate not in row.share.states:
                asked.setdefault(term.gate, []).append(row)
    for gate, members in asked.items():
        if type(gate).prepare is AbstractGate.prepare:
            continue
        ids = [torch.tensor(row.ids if whole else row.request.prompt_ids) for row in members]
        ids_BT = pad_sequence(ids, batch_first=True).to(host.device)
        length_B = torch.tensor([len(row_ids) for row_ids in ids], device=host.device)
        mask_BT = torch.arange(ids_BT.shape[1], device=host.device) < length_B[:, None]
        state = gate.prepare(host.embed(ids_BT), mask_BT)
        for place, row in enumerate(members):
            states = {**row.share.states, gate: take_state(state, place)}
            row.share = Share(row.share.adapters, row.share.terms, states)


def consult(rows: Sequence[Row], hidden_BH: Tensor | None, cached: Sequence[int]) -> list[Change | None]:
    """What the controllers of rows say to their newest tokens; each is asked once for all of its rows.

    `cached[i]` tokens of row i are in the cache.
    """
    changes: list[Change | None] = [None] * len(rows)
    fired: dict[AbstractController, list[int]] = {}
    for place, row in enumerate(rows):
        if row.controller is not None and row.controller.fires(row.ids[-1], cached[place]):
            fired.setdefault(row.controller, []).append(place)
    for controller, places in fired.items():
        events = [
            Event(
                rows[place].request.id,
                rows[place].ids[-1],
                len(rows[place].ids) - 1,
                hidden_BH[place] if controller.wants_hidden and hidden_BH is not None else None,
                rows[place].ids,
                cached[place],
            )
            for place in places
        ]
        answers = controller.observe([rows[place].state for place in places], events)
        for place, (state, change) in zip(places, answers, strict=True):
            rows[place].state, changes[place] = state, change
    return changes


def apply(host: AbstractHost, row: Row, change: Change, cache: AbstractCache, place: int) -> bool:
    """Change a row that is row `place` of a cache; whether it has to be read again.

    Raises ShapeError for an eviction of more than the cache holds, PoolFullError for a share that finds no
    place; the row is then as it was.
    """
    if not 0 <= change.evict < cache.lengths[place]:
        raise ShapeError(f"cannot evict {change.evict} of {cache.lengths[place]} tokens in the cache")
    if change.share is not None and change.share is not row.share:
        swap(host, row, change.share, whole=change.reread)
    if change.evict:
        cache.cut(place, change.evict)
        row.start += change.evict
    row.forced += change.force
    if change.reread:
        row.unread = row.start
    return change.reread


def swap(host: AbstractHost, row: Row, share: Share, *, whole: bool = False) -> None:
    """Let a row whose share is held go on under another one; `whole` as in `decide`. Raises PoolFullError."""
    host.hold(share)
    host.release(row.share)
    row.share = share
    decide(host, [row], whole=whole)
