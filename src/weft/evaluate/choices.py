"""Multiple choice: which of the answers that a row offers is the likeliest.

As lm-evaluation-harness measures it: `accuracy` takes the answer of the highest log-likelihood,
`accuracy_norm` that of the highest one per character. Departs from it in: the token that ends an answer
counts as part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from weft.engine import Engine
from weft.tasks import Row, render
from weft.types import Mixture


class ChoiceReport(NamedTuple):
    """Shares of rows, 0 to 1, whose right answer is the likeliest; and what was chosen in each."""

    accuracy: float
    accuracy_norm: float
    chosen: tuple[str, ...]


def choose(
    engine: Engine, rows: Sequence[Row], mixture: Mixture | None, *, batch_size: int = 32
) -> ChoiceReport:
    """Choose among the `choices` of every row; all rows have some. The mixture assigns the same to each.

    Raises ConfigError for a row that the chat template does not take.
    """
    offers = [(row, choice) for row in rows for choice in row.choices]
    encoded = [
        render(engine.tokenizer, replace(row, completion=choice, choices=())) for row, choice in offers
    ]
    nats = iter(engine.nll(encoded, mixture=mixture, batch_size=batch_size).tolist())
    right, right_norm, chosen = [], [], []
    for row in rows:
        likely = {choice: -next(nats) for choice in row.choices}
        best = max(likely, key=lambda choice: likely[choice])
        per_character = {choice: nat / max(len(choice), 1) for choice, nat in likely.items()}
        right.append(best == row.completion)
        right_norm.append(max(likely, key=lambda choice: per_character[choice]) == row.completion)
        chosen.append(best)
    return ChoiceReport(fmean(right), fmean(right_norm), tuple(chosen))
