"""Go on training one adapter on a few examples, from what a hypernetwork made or from nothing.

The same low-rank adaptation as `train/lora.py`, without a run folder: seconds to minutes of it. A generated
adapter is a start that is already near; A and B go on from its numbers, and the step whose loss on the
held-out rows is lowest is kept (step 0, the start itself, among them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from weft.errors import NotFiniteError
from weft.rows import AbstractHost
from weft.tasks import Encoded, draw_rows
from weft.train.best import Best
from weft.train.learned_bank import LearnedBank, score
from weft.train.learner import BankLearner
from weft.train.optimizer import OptimizerConfig
from weft.types import Adapter

_TOKENS = 1024
_LOOKS, _PATIENCE = 20, 5
"""How often the held-out rows are looked at in all, and after how many looks without a lower loss it ends."""


class Refined(NamedTuple):
    """The adapter, and how it came about; the loss is in nats per answer token of the held-out rows."""

    adapter: Adapter
    loss: float | None
    """None without held-out rows."""
    steps: int
    """Taken before training ended."""
    kept_step: int
    """Whose numbers the adapter has."""


def refine(
    host: AbstractHost,
    start: Adapter | None,
    rows: Sequence[Encoded],
    held_out: Sequence[Encoded],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    rows_per_step: int = 8,
    r: int = 8,
    seed: int = 0,
    name: str = "adapter",
    provenance: Mapping[str, Any],
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Refined:
    """Train for at most so many steps, from `start` or from zero at every site of the host with rank `r`.

    Every row is met once before one is met again. `progress` hears each step and its loss. Without held-out
    rows all steps are taken and the last one is kept. Raises NotFiniteError for a loss that is no number.
    """
    bank = _bank(host, start, name, r=r, seed=seed).to(host.device)
    learner = BankLearner(host, bank, OptimizerConfig(learning_rate=learning_rate), steps=max(steps, 1))
    look = max(1, steps // _LOOKS)
    best = Best(bank)
    if held_out:
        best.see(0, [_loss(host, bank, held_out)])
    done = 0
    for done in range(1, steps + 1):
        chosen = draw_rows(rows, rows_per_step, done - 1, str(seed))
        loss = float(learner.backward([chosen], tokens=_TOKENS)[0])
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss of step {done} is {loss}; lower the learning rate")
        learner.step()
        progress(done, loss)
        if held_out and (done % look == 0 or done == steps):
            best.see(done, [_loss(host, bank, held_out)])
            if best.has_ended(_PATIENCE):
                break
    if held_out:
        best.bring_back()
    adapter = bank.adapter(0, base=host.fingerprint, provenance=provenance)
    if not held_out:
        return Refined(adapter, None, done, done)
    return Refined(adapter, best.losses[0], done, best.steps[0])


def _bank(host: AbstractHost, start: Adapter | None, name: str, *, r: int, seed: int) -> LearnedBank:
    """The adapter as learned parameters; one scaling for all sites, the rest of each goes into its B."""
    if start is None:
        return LearnedBank(host.sites, [name], r=r, scaling=2.0, seed=seed)
    scaling = start.factors[start.sites[0]].scaling or 1.0
    bank = LearnedBank(start.sites, [name], r=1, scaling=scaling, seed=seed)
    for i, site in enumerate(bank.sites):
        a_RI, b_OR, own = start.factors[site]
        bank.a[i] = nn.Parameter(a_RI.detach().float()[None].clone())
        bank.b[i] = nn.Parameter(b_OR.detach().float()[None] * (own / scaling))
    return bank


def _loss(host: AbstractHost, bank: LearnedBank, rows: Sequence[Encoded]) -> float:
    return score(host, bank.part(0, 1), rows, tokens=_TOKENS)[0]
