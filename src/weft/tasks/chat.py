"""Rows and prompts to token ids, through the tokenizer's chat template where it has one.

One rule for training and generation: a row begins with exactly the ids that generation starts from, and its
last token is one that generation stops at. Without a template everything is joined plainly: description,
newline, prompt, completion, end of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from weft.errors import ConfigError, PromptTooLongError
from weft.reading import check_text, shown
from weft.tasks.task import Row, Task
from weft.tasks.template import Dialect, Turns, dialect_of, write

_ANCHOR = "\n"
"""A text that no tokenizer joins to the word behind it."""


class Encoded(NamedTuple):
    """A row as token ids; the completion is what the loss is taken on."""

    prompt_ids: list[int]
    completion_ids: list[int]

    @property
    def ids(self) -> list[int]:
        """Prompt and completion, in one piece."""
        return self.prompt_ids + self.completion_ids


def render(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    *,
    description: str | None = None,
    max_length: int | None = None,
) -> Encoded:
    """Encode a row; a description goes before it, as the system message where there is a chat template.

    The prompt is what `render_prompt` gives for the row's question. The completion is what the template
    writes from there on, up to and with the token that ends a turn; where it ends turns with none, the
    tokenizer's end of text is put there. A plain text is all completion, and no template is applied to it.
    A mark that a text begins or ends with, as chats do that were rendered elsewhere, is not put there twice.

    Raises PromptTooLongError over `max_length` tokens; ConfigError when the template refuses the row or
    changes its answer, and when there is no token to end an answer with.
    """
    dialect = None if row.is_text else dialect_of(tokenizer)
    if dialect is None:
        prompt = "" if row.is_text and description is None else _plain(row.question, description)
        prompt_ids = plain_ids(tokenizer, prompt) if prompt else []
        answer = row.completion
        whole_ids = plain_ids(tokenizer, prompt + answer)
        stop_id = None
    else:
        prompt = _chat(tokenizer, dialect, row.question, description, ask=True)
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        answer = _answer(tokenizer, dialect, row, prompt, description)
        whole_ids = tokenizer.encode(prompt + answer, add_special_tokens=False)
        stop_id = dialect.stop_id
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        completion_ids = whole_ids[len(prompt_ids) :]
    else:  # some tokenizer joins the end of a prompt to the start of its answer
        completion_ids = _continue(tokenizer, prompt_ids, answer, whole_ids)
    if not completion_ids or completion_ids[-1] not in (stop_id, tokenizer.eos_token_id):
        completion_ids.append(_end_of_text(tokenizer))
    encoded = Encoded(prompt_ids, completion_ids)
    _check_length(encoded.ids, max_length, row.prompt or row.completion)
    return encoded


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Turns,
    *,
    description: str | None = None,
    max_length: int | None = None,
) -> list[int]:
    """Encode a question, ready for the model to answer.

    Raises PromptTooLongError over `max_length` tokens, ConfigError when the template refuses it or a text
    holds half a character.

    Args:
        tokenizer: Hugging Face's, whose chat template writes the prompt where it has one.
        prompt: A question, or the (role, content) turns of a chat.
        description: What to do, put before the question; nothing unless given.
        max_length: Most tokens of the prompt; no limit unless given.

    Example:
        >>> from weft.tasks import render_prompt
        >>> tokenizer = weft.Host.from_pretrained("weft/letters").tokenizer
        >>> tokenizer.decode(render_prompt(tokenizer, "cab"))
        'cab >'
    """
    turns = (("user", prompt),) if isinstance(prompt, str) else prompt
    if not turns:
        raise ConfigError("there is no turn to answer, the list of messages is empty")
    for _, content in turns:
        check_text(content, "a prompt")
    dialect = dialect_of(tokenizer)
    if dialect is None:
        ids = plain_ids(tokenizer, _plain(turns, description))
    else:
        text = _chat(tokenizer, dialect, turns, description, ask=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
    _check_length(ids, max_length, turns[-1][1])
    return ids


def render_raw(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    *,
    description: str | None = None,
    max_length: int | None = None,
) -> Encoded:
    """Encode a row as a text that goes on: no template, and no token that ends it.

    A description goes before the prompt, on a line of its own. Raises PromptTooLongError over `max_length`.
    """
    prompt_ids = plain_ids(tokenizer, _plain(row.question, description))
    encoded = Encoded(prompt_ids, tokenizer.encode(row.completion, add_special_tokens=False))
    _check_length(encoded.ids, max_length, row.prompt)
    return encoded


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the end of text, and what the chat template ends a turn with."""
    dialect = dialect_of(tokenizer)
    ends = [tokenizer.eos_token_id, None if dialect is None else dialect.stop_id]
    return frozenset(end for end in ends if isinstance(end, int))


def fit_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    descriptions: Sequence[str] = (),
) -> tuple[tuple[Row, ...], int]:
    """The rows that fit `max_length` tokens with the longest of the descriptions, and how many do not.

    Raises ConfigError that names the row, counted from 1, which cannot be rendered.
    """
    longest = max(descriptions, key=lambda text: len(plain_ids(tokenizer, text)), default=None)
    kept: list[Row] = []
    for number, row in enumerate(rows, 1):
        try:
            encoded = render(tokenizer, row, description=longest)
        except ConfigError as error:
            raise ConfigError(f"row {number}: {error}") from error
        if len(encoded.ids) <= max_length:
            kept.append(row)
    return tuple(kept), len(rows) - len(kept)


def fit_task(
    tokenizer: PreTrainedTokenizerBase, task: Task, *, max_length: int, descriptions: Sequence[str] = ()
) -> tuple[Task | None, int]:
    """A task with those of its rows that `fit_rows` keeps, None for none, and how many it does not keep.

    Raises as that does.
    """
    options = {"max_length": max_length, "descriptions": descriptions}
    train, left_out = fit_rows(tokenizer, task.train, **options)
    test, more = fit_rows(tokenizer, task.test, **options)
    return replace(task, train=train, test=test) if train or test else None, left_out + more


def row_encoder(
    tokenizer: PreTrainedTokenizerBase, *, describe: bool, max_length: int | None = None
) -> Callable[[Row, str], Encoded]:
    """`render` for a row and a description, which goes before it where `describe`.

    Rows are kept, since a chat template takes longer to write than a row to train on.
    """

    @lru_cache(maxsize=1 << 16)
    def encode(row: Row, description: str | None) -> Encoded:
        return render(tokenizer, row, description=description, max_length=max_length)

    return lambda row, description: encode(row, description if describe else None)


def encode_longest(encode: Callable[[Row, str], Encoded], tasks: Iterable[Task]) -> None:
    """Encode the longest train row of each task, so that one which is too long is told before a run begins.

    Raises what `encode` raises.
    """
    for task in tasks:
        row = max(task.train, key=lambda row: sum(len(content) for _, content in row.messages), default=None)
        if row is not None:
            encode(row, max(task.descriptions, key=len))


def every_answer(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows with a row more for each earlier answer of a chat, so that the loss is on every assistant turn.

    Those that a row names as unlearned are left out.
    """
    spread: list[Row] = []
    for row in rows:
        for place, (role, content) in enumerate(row.history):
            if role != "assistant" or not place or not content or place in row.unlearned:
                continue
            before, (asker, question) = row.history[: place - 1], row.history[place - 1]
            if asker == "user":
                spread.append(Row(question, content, (), before))
            elif asker == "tool":
                spread.append(Row("", content, (), row.history[:place]))
        spread.append(row)
    return tuple(spread)


def _plain(turns: Turns, description: str | None) -> str:
    texts = [content for _, content in turns]
    return "\n".join(texts if description is None else [description, *texts])


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a plain text, after the beginning-of-text token of those tokenizers that write one, once."""
    start, ids = [*_start(tokenizer)], tokenizer.encode(text, add_special_tokens=False)
    return ids if ids[:1] == start else start + ids


def inner_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that stands behind another, without the space that some tokenizers put before a text."""
    # They do not put it behind a line break.
    anchor = _anchor(tokenizer)
    anchored = tokenizer.encode(_ANCHOR + text, add_special_tokens=False)
    if tuple(anchored[: len(anchor)]) == anchor:
        return anchored[len(anchor) :]
    return tokenizer.encode(text, add_special_tokens=False)


@lru_cache(maxsize=8)
def _anchor(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return tuple(tokenizer.encode(_ANCHOR, add_special_tokens=False))


@lru_cache(maxsize=8)
def _start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Only the beginning: an end that the tokenizer adds by itself would cut a prompt off from its answer."""
    return tuple(i for i in tokenizer.encode("")[:1] if i == tokenizer.bos_token_id)


def _chat(
    tokenizer: PreTrainedTokenizerBase, dialect: Dialect, turns: Turns, description: str | None, *, ask: bool
) -> str:
    system = [] if description is None else [description]
    if turns[0][0] == "system":
        system.append(turns[0][1])
        turns = turns[1:]
    return write(tokenizer, dialect, turns, system, ask=ask)


def _answer(
    tokenizer: PreTrainedTokenizerBase, dialect: Dialect, row: Row, prompt: str, description: str | None
) -> str:
    """What the template writes of an answer behind the prompt, up to the mark that ends a turn."""
    whole = _chat(tokenizer, dialect, row.messages, description, ask=False)
    said = row.completion.strip()
    if whole.startswith(prompt):
        text = whole[len(prompt) :]
        if dialect.lead.strip():  # who is asked does not write it, and it would be read as the answer
            text = text.removeprefix(dialect.lead)
    else:  # a prompt that ends in more than a header, such as the start of a thought
        bare = _chat(tokenizer, dialect, row.question, description, ask=False)
        start = len(bare) + len(dialect.header) if whole.startswith(bare + dialect.header) else -1
        start = start if start >= 0 else whole.rfind(said) if said else len(whole) - len(dialect.after)
        text = whole[start:] if start >= 0 else ""
    text = text.removesuffix(dialect.after)
    if said not in text:
        raise ConfigError(
            f"the chat template does not keep the answer {shown(row.completion)}, it writes {shown(text)}"
        )
    return text if dialect.end and text.endswith(dialect.end) else text + dialect.end


def _continue(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], answer: str, whole_ids: list[int]
) -> list[int]:
    """Ids of an answer of its own behind a prompt, such that both together read like the whole."""
    alone = tokenizer.encode(answer, add_special_tokens=False)
    if tokenizer.decode(prompt_ids + alone) == tokenizer.decode(whole_ids):
        return alone
    return inner_ids(tokenizer, answer)


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ConfigError("the tokenizer has no eos_token, so an answer cannot end; set one")
    return end


def _check_length(ids: list[int], max_length: int | None, text: str) -> None:
    if max_length is not None and len(ids) > max_length:
        raise PromptTooLongError(
            f"{len(ids)} tokens, at most {max_length} fit: {shown(text, 60)}; shorten it"
        )
