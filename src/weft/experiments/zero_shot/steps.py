"""Steps saved: training on a few examples from the generated adapter, beside training from zero.

Both starts are trained in the same forwards, on the same rows in the same order, and each has its own Adam
state and clipping. What counts is the loss on rows that neither is trained on:

    saved: the first look at which the generated start is no worse than the other start after all steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from weft.errors import ConfigError
from weft.experiments.zero_shot.recipe import Steps
from weft.hyper import HyperNetwork
from weft.rows import AbstractHost
from weft.tasks import Encoded, Task, draw_rows, render
from weft.train.learned_bank import LearnedBank, score
from weft.train.learner import BankLearner
from weft.train.optimizer import OptimizerConfig
from weft.types import Adapter, Description

ZERO, GENERATED = "zero", "generated"
_TOKENS = 1024


@dataclass(frozen=True)
class Curve:
    """Losses of one function, in nats per answer token of the held-out rows."""

    task: str
    at: tuple[int, ...]
    """Steps taken at each look; the first is 0."""
    zero: tuple[float, ...]
    generated: tuple[float, ...]

    @property
    def needed(self) -> int | None:
        """Steps that the generated start needs for what zero has at the end; None where it never does."""
        goal = self.zero[-1]
        return next((step for step, loss in zip(self.at, self.generated, strict=True) if loss <= goal), None)


def choose(splits: Sequence[Sequence[Task]], count: int) -> list[Task]:
    """So many tasks, one of each split by turns. Raises ConfigError where there are fewer."""
    longest = max(map(len, splits))
    turns = [tasks[i] for i in range(longest) for tasks in splits if i < len(tasks)]
    if len(turns) < count:
        raise ConfigError(f"the splits hold {len(turns)} tasks, steps.tasks is {count}")
    return turns[:count]


def train_both(host: AbstractHost, hyper: HyperNetwork, task: Task, steps: Steps, *, seed: int) -> Curve:
    """Train one function from both starts; the description is an unseen wording of it.

    Raises ConfigError for a task without train or test rows.
    """
    text = (task.unseen_descriptions or task.descriptions)[0]
    made = hyper.adapt(Description(text))
    bank = _bank(made, task.name, seed).to(host.device)
    rows = [render(host.tokenizer, row) for row in task.train[: steps.examples]]
    held_out = [render(host.tokenizer, row) for row in task.test[: steps.held_out]]
    if not rows or not held_out:
        raise ConfigError(f"task {task.name} has no train rows, or no test rows")
    config = OptimizerConfig(learning_rate=steps.learning_rate)
    learner = BankLearner(host, bank, config, steps=steps.steps)
    looks = [(0, *_losses(host, bank, held_out))]
    for done in range(1, steps.steps + 1):
        drawn = draw_rows(rows, steps.rows_per_step, done - 1, f"{seed}/{task.name}")
        learner.backward([drawn, drawn], tokens=_TOKENS)
        learner.step()
        if done % steps.look == 0 or done == steps.steps:
            looks.append((done, *_losses(host, bank, held_out)))
    at, zero, generated = zip(*looks, strict=True)
    return Curve(task.name, at, zero, generated)


def summary(curves: Sequence[Curve], steps: int) -> dict[str, Any]:
    """The median share of the steps that the generated start needs; one that never arrives counts as 1."""
    shares = [1.0 if curve.needed is None else curve.needed / steps for curve in curves]
    return {
        "functions": len(curves),
        "median share of the steps": median(shares),
        "never": sum(curve.needed is None for curve in curves),
        "at once": sum(curve.needed == 0 for curve in curves),
    }


def _bank(made: Adapter, name: str, seed: int) -> LearnedBank:
    """Two adapters: the first from zero, the second from what was made; one scaling for both."""
    scaling = made.factors[made.sites[0]].scaling
    bank = LearnedBank(made.sites, [f"{name}-{ZERO}", name], r=made.rank, scaling=scaling, seed=seed)
    with torch.no_grad():
        for site, a_KRI, b_KOR in zip(bank.sites, bank.a, bank.b, strict=True):
            a_RI, b_OR, own = made.factors[site]
            a_KRI[1], b_KOR[1] = a_RI, b_OR * (own / scaling)
    return bank


def _losses(host: AbstractHost, bank: LearnedBank, rows: Sequence[Encoded]) -> tuple[float, float]:
    zero, generated = (score(host, bank.part(k, k + 1), rows, tokens=_TOKENS)[0] for k in (0, 1))
    return zero, generated
