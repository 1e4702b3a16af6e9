"""Gates that choose adapters for every token, as rivals of a shift: nothing is told, a gate is always asked.

PHATGOOSE learns a gate per adapter on rows of the adapter's own task, Arrow learns nothing. What makes the
base write streams at all is an adapter that is always on, trained with the gate at work.
"""

from __future__ import annotations

import torch

from weft.engine.score import nll
from weft.host import Host
from weft.route import Arrow, Phatgoose, PhatgooseTraining, learn
from weft.tasks import IGNORE, Row, collate, render
from weft.tasks.batch import pad_id
from weft.tasks.letters.world import World
from weft.types import Bank, Mixture, Term

_ROWS = 4
"""Rows of each adapter's own task in a step."""


def arrow(bank: Bank) -> Term:
    """The library under Arrow."""
    return Term(bank, Arrow(bank, top_k=min(3, len(bank))))


def phatgoose(host: Host, bank: Bank, *, steps: int = 100) -> Term:
    """The library under PHATGOOSE, its gates learned here, each on rows of the task of its adapter's name."""
    rows = [World().find(name).train for name in bank.names]
    gate = PhatgooseTraining(bank.sites, len(bank))
    gate.index_B = torch.arange(len(bank)).repeat_interleave(_ROWS)
    mixture = Mixture((Term(bank, gate),))

    def loss(step: int) -> torch.Tensor:
        drawn: list[Row] = [
            some[(step * _ROWS + place) % len(some)] for some in rows for place in range(_ROWS)
        ]
        encoded = [render(host.tokenizer, row) for row in drawn]
        batch = collate(encoded, pad_id=pad_id(host), side="left")
        ids_BT, mask_BT, labels_BT = (tensor.to(host.device) for tensor in batch)
        nll_B = nll(host, ids_BT, labels_BT, mixture, mask_BT=mask_BT)
        return (nll_B / (labels_BT != IGNORE).sum(1)).mean()

    learn(gate, loss, steps=steps)
    return Term(bank, Phatgoose(bank, gate.gates, top_k=min(2, len(bank))))
