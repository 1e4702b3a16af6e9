"""Two adapters that know nothing of the task: what of a generated one's worth is its size, or common.

    random:  B A with Gaussian factors, scaled so that || B A ||_F is that of the generated delta at each site
    fixed:   1/N sum_n B_n A_n, exact, over adapters generated for N training tasks; one for every task

LoRA recycling (2026, arXiv 2602.12323) found merges of public adapters no better than random ones, so a gain
counts only beside these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.adapters import concat, squared_norms
from weft.errors import ShapeError
from weft.evaluate.conditions import GENERATED, Condition, generate_for
from weft.evaluate.wordings import Wordings
from weft.tasks import Task, evenly
from weft.types import AbstractHyperNetwork, Adapter, Bank

RANDOM = "random adapter of the same norm"
FIXED = "fixed adapter"
CONTROLS = (GENERATED, RANDOM, FIXED)
"""The conditions of `build_controls`, in their order."""


def build_controls(
    tasks: Sequence[Task], wordings: Wordings, *, hyper: AbstractHyperNetwork, fixed: Adapter, seed: int
) -> tuple[Condition, ...]:
    """The generated adapters, random ones drawn by `seed`, and one fixed adapter for all tasks."""
    made = generate_for(hyper, [task.cue(text) for task, text in zip(tasks, wordings.seen, strict=True)])
    count = len(tasks)
    return (
        Condition(GENERATED, False, made.bank, made.place_N, made.key_N),
        Condition(
            RANDOM,
            False,
            random_like(made.bank, seed),
            made.place_N,
            tuple(f"random {seed} {key}" for key in made.key_N),
        ),
        Condition(FIXED, False, Bank.stack([fixed]), (0,) * count, ("fixed",) * count),
    )


def random_like(bank: Bank, seed: int) -> Bank:
    """As many adapters of the same rank, in random directions; at each site a delta keeps its norm."""
    rng = torch.Generator().manual_seed(seed)
    a, b = {}, {}
    for site in bank.sites:
        a_KRI = torch.randn(bank.a[site].shape, generator=rng).to(bank.a[site])
        b_KOR = torch.randn(bank.b[site].shape, generator=rng).to(bank.b[site])
        wanted_K = squared_norms(bank.a[site], bank.b[site])
        scale_K = (wanted_K / squared_norms(a_KRI, b_KOR)).sqrt()
        a[site], b[site] = a_KRI, b_KOR * scale_K[:, None, None]
    return Bank(bank.names, a, b, base=bank.base)


def mean_adapter(hyper: AbstractHyperNetwork, tasks: Sequence[Task], count: int) -> Adapter:
    """The exact mean of the deltas generated for so many of the tasks, evenly spread, by their main cues.

    Its rank is their number times the network's. Raises ShapeError for no tasks.
    """
    if not tasks:
        raise ShapeError("there are no tasks to take a mean over")
    chosen = evenly(tasks, count)
    with torch.no_grad():
        bank = hyper.generate([task.cue(task.descriptions[0]) for task in chosen])
    return concat([bank[k] for k in range(len(bank))], [1 / len(bank)] * len(bank))
