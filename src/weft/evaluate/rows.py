"""How well a base answers the rows of a file, under an adapter or alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from weft.engine import Engine
from weft.errors import ConfigError
from weft.evaluate.answer import answer_questions, ask
from weft.evaluate.choices import choose
from weft.evaluate.metrics import exact_match
from weft.tasks import Row, render
from weft.types import Mixture


@dataclass(frozen=True)
class RowsReport:
    """What was measured on rows, and what was said to each."""

    rows: int
    left_out: int
    """Rows that leave no room for an answer in the window."""
    loss: float
    """Mean nats per token of the references, their ends included."""
    perplexity: float
    exact_match: float
    """Share of answers that are one of the accepted ones; white space around them is left out."""
    accuracy: float | None
    """Share of the rows with choices whose completion is the likeliest of them; None without such rows."""
    accuracy_norm: float | None
    """The same by the likelihood per character."""
    predictions: tuple[tuple[str, str, str], ...]
    """(prompt, reference, prediction) of every row measured."""


def evaluate_rows(
    engine: Engine, rows: Sequence[Row], mixture: Mixture | None, *, max_new_tokens: int = 64
) -> RowsReport:
    """Answer rows by greedy decoding, and measure how likely their references are.

    The mixture assigns the same to every row. Raises ConfigError when no row is a question that fits the
    window.
    """
    window = engine.host.window or math.inf
    kept = []
    for row in rows:
        if row.is_text:
            raise ConfigError("a plain text asks nothing; give rows with a prompt and a completion")
        question = ask(engine.tokenizer, row, None)
        offers = [replace(row, completion=choice, choices=()) for choice in row.choices]
        wholes = [question.encoded, *(render(engine.tokenizer, offer) for offer in offers)]
        asked = len(question.prompt_ids) + max_new_tokens
        if max(asked, *(len(whole.ids) for whole in wholes)) <= window:
            kept.append((row, question))
    if not kept:
        raise ConfigError(f"none of {len(rows)} rows fits the window with {max_new_tokens} new tokens")
    questions = [question for _, question in kept]
    answers = answer_questions(engine, questions, mixture, max_new_tokens=max_new_tokens, batch_size=32)
    offered = [row for row, _ in kept if row.choices]
    choice = choose(engine, offered, mixture) if offered else None
    loss = sum(said.nll for said in answers) / sum(said.tokens for said in answers)
    answered = [(row, said.text) for (row, _), said in zip(kept, answers, strict=True)]
    return RowsReport(
        rows=len(kept),
        left_out=len(rows) - len(kept),
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        exact_match=fmean(exact_match(text, row.answers) for row, text in answered),
        accuracy=choice and choice.accuracy,
        accuracy_norm=choice and choice.accuracy_norm,
        predictions=tuple((row.question[-1][1], row.completion, text) for row, text in answered),
    )
