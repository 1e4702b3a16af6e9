"""Rows and prompts to token ids, through the tokenizer's chat template where it has one.

Without a template everything is joined plainly: description, newline, prompt, completion, end of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from weft.errors import ConfigError, PromptTooLongError
from weft.tasks.task import Row

_PROBE = "weft system probe"

Turns = Sequence[tuple[str, str]]
"""(role, content) turns of a chat."""


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

    Prompt and completion together are exactly the rendering of the whole. Where the prompt alone is written
    otherwise than as the beginning of the whole, the completion starts at the first token that differs.
    A plain text is all completion, and no template is applied to it.

    Raises PromptTooLongError over `max_length` tokens, ConfigError when the template refuses it.
    """
    if tokenizer.chat_template is None or row.is_text:
        text = _plain(row.question, description)
        whole = _tokens(tokenizer, text + row.completion)
        prompt = _tokens(tokenizer, text) if text else []
        end = tokenizer.eos_token_id
        if not isinstance(end, int):
            raise ConfigError("the tokenizer has no eos_token, so an answer cannot end; set one")
        whole.append(end)
    else:
        whole = _chat(tokenizer, row.messages, description, generate=False)
        prompt = _chat(tokenizer, row.question, description, generate=True)
    length = _common_prefix(prompt, whole)
    if length == len(whole):
        raise ConfigError(
            f"the tokenizer renders no token for the answer {row.completion!r}; check its template"
        )
    _check_length(whole, max_length, row.prompt or row.completion)
    return Encoded(whole[:length], whole[length:])


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Turns,
    *,
    description: str | None = None,
    max_length: int | None = None,
) -> list[int]:
    """Encode a question, ready for the model to answer.

    Raises PromptTooLongError over `max_length` tokens, ConfigError when the template refuses it.
    """
    turns = (("user", prompt),) if isinstance(prompt, str) else prompt
    if not turns:
        raise ConfigError("there is no turn to answer, the list of messages is empty")
    if tokenizer.chat_template is None:
        ids = _tokens(tokenizer, _plain(turns, description))
    else:
        ids = _chat(tokenizer, turns, description, generate=True)
    _check_length(ids, max_length, turns[-1][1])
    return ids


def fit_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    descriptions: Sequence[str] = (),
) -> tuple[tuple[Row, ...], int]:
    """The rows that fit `max_length` tokens with the longest of the descriptions, and how many do not."""
    longest = max(descriptions, key=lambda text: len(_tokens(tokenizer, text)), default=None)
    kept = tuple(row for row in rows if len(render(tokenizer, row, description=longest).ids) <= max_length)
    return kept, len(rows) - len(kept)


def _plain(turns: Turns, description: str | None) -> str:
    texts = [content for _, content in turns]
    return "\n".join(texts if description is None else [description, *texts])


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a plain text, after the beginning-of-text token of those tokenizers that write one."""
    return [*_start(tokenizer), *tokenizer.encode(text, add_special_tokens=False)]


@lru_cache(maxsize=8)
def _start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Only the beginning: an end that the tokenizer adds by itself would cut a prompt off from its answer."""
    return tuple(i for i in tokenizer.encode("")[:1] if i == tokenizer.bos_token_id)


def _chat(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, description: str | None, *, generate: bool
) -> list[int]:
    system = [] if description is None else [description]
    if turns[0][0] == "system":
        system.append(turns[0][1])
        turns = turns[1:]
    messages = [{"role": role, "content": content} for role, content in turns]
    if system and _takes_system(tokenizer, tokenizer.get_chat_template()):
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    elif system:
        first = next((m for m in messages if m["role"] == "user"), None)
        if first is None:
            raise ConfigError(
                "the chat template takes no system message, and there is no user turn to put it in"
            )
        first["content"] = "\n\n".join([*system, first["content"]])
    return tokenizer.encode(_write(tokenizer, messages, generate), add_special_tokens=False)


def _write(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], generate: bool) -> str:
    try:
        text: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    except jinja2.TemplateError as error:
        raise ConfigError(f"the chat template refuses these turns: {error}") from error
    return text


@lru_cache(maxsize=8)
def _takes_system(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Tried once per template: some raise on a system message, some drop it without a word."""
    turns = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "-"}]
    try:
        return _PROBE in str(tokenizer.apply_chat_template(turns, tokenize=False, chat_template=template))
    except jinja2.TemplateError:
        return False


def _common_prefix(a: list[int], b: list[int]) -> int:
    if b[: len(a)] == a:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _check_length(ids: list[int], max_length: int | None, text: str) -> None:
    if max_length is not None and len(ids) > max_length:
        raise PromptTooLongError(f"{len(ids)} tokens, at most {max_length} fit: {text[:60]!r}; shorten it")
