"""Greedy answers and their losses, many tasks' rows in one mixed batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from weft.engine import Engine, take_rows
from weft.engine.batch import batches
from weft.engine.score import predict
from weft.engine.stop import BROKEN
from weft.rows import AbstractHost
from weft.tasks import IGNORE, Batch, Encoded, Row, collate, render, render_prompt
from weft.types import Mixture


class Question(NamedTuple):
    """A row, ready for the host."""

    encoded: Encoded
    prompt_ids: list[int]
    """What generation starts from; some templates write it otherwise than `encoded` begins."""


class Answer(NamedTuple):
    """What the host says to a question, and how likely it finds the reference."""

    text: str
    nll: float
    """Summed nats of the reference completion."""
    tokens: int
    """How many tokens that sum is over."""


class Reading(NamedTuple):
    """What one teacher-forced forward tells about a batch."""

    nll_B: Float[Tensor, " B"]
    agreed_B: Int[Tensor, " B"]
    """How many of a completion's first tokens greedy decoding takes."""


def ask(tokenizer: PreTrainedTokenizerBase, row: Row, description: str | None) -> Question:
    """Encode a row, with a description in its prompt or without. Raises ConfigError."""
    return Question(
        render(tokenizer, row, description=description),
        render_prompt(tokenizer, row.question, description=description),
    )


def answer_questions(
    engine: Engine,
    questions: Sequence[Question],
    mixture: Mixture | None,
    *,
    max_new_tokens: int,
    batch_size: int,
    shortcut: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Answer questions by greedy decoding; the mixture has one row per question.

    Where the forward that measures the loss finds every reference token, its end included, to be the most
    likely one, greedy decoding would write just that, and the row is not decoded again. `shortcut=False`
    decodes every row. `progress` hears how many rows were finished.
    """
    answers: list[Answer | None] = [None] * len(questions)
    open_rows: list[int] = []
    readings: dict[int, tuple[float, int]] = {}
    for index in batches([len(q.encoded.ids) for q in questions], batch_size):
        batch = collate([questions[i].encoded for i in index], pad_id=engine.pad_id, side="left")
        reading = read(engine.host, batch, _part(mixture, index))
        for i, nll, agreed in zip(index, reading.nll_B.tolist(), reading.agreed_B.tolist(), strict=True):
            readings[i] = (nll, len(questions[i].encoded.completion_ids))
            text = _proven(engine, questions[i], agreed, max_new_tokens) if shortcut else None
            if text is None:
                open_rows.append(i)
            else:
                answers[i] = Answer(text, *readings[i])
        progress(sum(answers[i] is not None for i in index))
    for chunk in batches([len(questions[i].prompt_ids) for i in open_rows], batch_size):
        index = [open_rows[j] for j in chunk]
        prompts = [questions[i].prompt_ids for i in index]
        texts = engine.generate(
            prompts, mixture=_part(mixture, index), batch_size=batch_size, max_new_tokens=max_new_tokens
        )
        for i, text in zip(index, texts, strict=True):
            answers[i] = Answer(text, *readings[i])
        progress(len(index))
    return [found for found in answers if found is not None]


@torch.no_grad()
def read(host: AbstractHost, batch: Batch, mixture: Mixture | None) -> Reading:
    """Loss and greedy agreement of left-padded rows in one forward; every prompt has a token or more."""
    ids_BT, mask_BT, labels_BT = (tensor.to(host.device) for tensor in batch)
    logits_BTV, labels_BT = predict(host, ids_BT, labels_BT, mixture, mask_BT=mask_BT)
    nll_BT = cross_entropy(logits_BTV.transpose(1, 2), labels_BT, ignore_index=IGNORE, reduction="none")
    padding_BT = labels_BT == IGNORE
    agree_BT = (logits_BTV.argmax(-1) == labels_BT) | padding_BT
    agreed_B = agree_BT.long().cumprod(-1).sum(-1) - padding_BT.sum(-1)
    return Reading(nll_BT.sum(-1).cpu(), agreed_B.cpu())


def _proven(engine: Engine, question: Question, agreed: int, max_new_tokens: int) -> str | None:
    """The greedy answer, where the reading proves it."""
    (prompt_ids, completion_ids), asked_ids = question
    end = next((i for i, token in enumerate(completion_ids) if token in engine.stop_ids), None)
    if end is None or end >= min(agreed, max_new_tokens) or prompt_ids != asked_ids:
        return None
    return engine.tokenizer.decode(completion_ids[:end], skip_special_tokens=True).rstrip(BROKEN)


def _part(mixture: Mixture | None, index: list[int]) -> Mixture | None:
    return None if mixture is None else take_rows(mixture, torch.tensor(index))
