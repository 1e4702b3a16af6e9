"""Lessons of a context network: what of a text is pressed, and what is asked about it.

A document with its questions; a document read through a window, as the window controller presents it; or a
passage of a plain text, where the question is to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weft.config import Config, Size
from weft.errors import ConfigError
from weft.hyper import ContextNetwork
from weft.reading import read_lines
from weft.rows import AbstractHost
from weft.tasks import Encoded, Row, render, render_raw


class PassagesConfig(Config):
    """Plain texts to go on with: what lies before the window is pressed."""

    texts: tuple[str, ...]
    """Files, .txt or .txt.gz."""
    per_batch: Size = 8
    """Passages of one step."""
    pressed: Size = 128
    """Tokens that are pressed."""
    window: Size = 32
    """Tokens in the window behind them."""
    completion: Size = 32
    """Tokens that the loss is on."""
    most_tokens: Size = 1 << 20
    """Of the texts, from their start."""


class Lesson(NamedTuple):
    """One text: what of it is pressed, and rows as the student and as the teacher sees them."""

    chunks: list[list[int]]
    asked: list[Encoded]
    told: list[Encoded]
    unanswered: tuple[Encoded, ...] = ()
    """A row like these that the text does not answer; none where there is none."""


def passage_length(host: AbstractHost, pressed: int, window: int, completion: int) -> int:
    """Tokens of a whole passage. Raises ConfigError where the base's window does not hold them."""
    length = pressed + window + completion
    if host.window is not None and length > host.window:
        raise ConfigError(f"a passage takes {length} tokens, the base reads {host.window} at most")
    return length


def encode_texts(host: AbstractHost, config: PassagesConfig) -> Tensor:
    """The first tokens of texts, one after another.

    Raises ConfigError for less than one passage, and for passages that the base's window does not hold.
    """
    length = passage_length(host, config.pressed, config.window, config.completion)
    ids: list[int] = []
    for name in config.texts:
        for _, line in read_lines(name):
            ids += host.tokenizer.encode(line.strip() + "\n", add_special_tokens=False)
            if len(ids) >= config.most_tokens:
                break
    ids = ids[: config.most_tokens]
    if len(ids) < length:
        raise ConfigError(
            f"the texts have {len(ids)} tokens, most_tokens is {config.most_tokens}; a passage takes {length}"
        )
    return torch.tensor(ids)


def lesson_of_task(
    network: ContextNetwork,
    document: str,
    rows: Sequence[Row],
    *,
    max_length: int | None = None,
    raw: bool = False,
    unanswered: Sequence[Row] = (),
) -> Lesson:
    """A document with questions; the teacher has it before each question that it answers."""
    tokenizer = network.host.tokenizer
    ids = tokenizer.encode(document, add_special_tokens=False)
    encode = render_raw if raw else render
    asked = [encode(tokenizer, row, max_length=max_length) for row in rows]
    told = [encode(tokenizer, row, description=document, max_length=max_length) for row in rows]
    strange = tuple(encode(tokenizer, row, max_length=max_length) for row in unanswered)
    return Lesson(list(network.chunks(ids)), asked, told, strange)


def lesson_in_window(
    network: ContextNetwork,
    document: str,
    row: Row,
    *,
    window: int,
    max_length: int | None = None,
    raw: bool = False,
) -> Lesson:
    """A document and a question behind it, as the window controller holds them in so many tokens.

    Raises ConfigError where all of it fits, so that there is nothing to press.
    """
    ids = network.tokens(document)
    question = (render_raw if raw else render)(network.host.tokenizer, row, max_length=max_length)
    whole = Encoded([*ids, *question.prompt_ids], question.completion_ids)
    chunks = network.leaving(whole.prompt_ids, len(whole.prompt_ids) - window)
    if not chunks:
        raise ConfigError(
            f"nothing of a document leaves a window of {window} tokens: with its question it has "
            f"{len(whole.prompt_ids)}; give longer documents"
        )
    stays = whole.prompt_ids[sum(map(len, chunks)) :]
    return Lesson(chunks, [Encoded(stays, whole.completion_ids)], [whole])


def lesson_of_text(network: ContextNetwork, config: PassagesConfig, ids: Sequence[int]) -> Lesson:
    """A passage: what lies before the window is pressed, and what comes after it is asked for."""
    before, after = ids[: config.pressed], ids[config.pressed + config.window :]
    window = list(ids[config.pressed : config.pressed + config.window])
    return Lesson(
        list(network.chunks(before)),
        [Encoded(window, list(after))],
        [Encoded([*before, *window], list(after))],
    )
