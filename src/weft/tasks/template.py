"""What a tokenizer's chat template does with turns, found out once by writing two short chats with it.

Templates differ in what they take (a system message; texts, or lists of parts), in what they write before an
answer (a header at once, or only when asked to generate) and in how they end one (with which token, or with
none). Everything that writes a chat asks here, so that training and generation agree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from weft.errors import ConfigError
from weft.plain import reason_of
from weft.reading import shown

_SYSTEM, _QUESTION, _ANSWER = "weft system probe", "weft question probe", "weft answer probe"
_RAISED = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""What the code inside a template raises when turns are not as it expects."""

Turns = Sequence[tuple[str, str]]
"""(role, content) turns of a chat."""


class Dialect(NamedTuple):
    """How a template writes."""

    takes_system: bool
    """Else a system message goes into the first question: some raise on one, some drop it without a word."""
    in_parts: bool
    """Whether it reads contents as lists of parts, and would leave out plain texts."""
    header: str
    """What stands between a question and its answer in a whole chat."""
    before_answer: str
    """What a prompt ends with beyond what the template writes: a header that it never gives on its own."""
    lead: str
    """What it writes between such a prompt and an answer that is told whole: an empty thought, a channel."""
    after: str
    """What it writes behind an answer."""
    end: str
    """As much of `after` as reaches to the token that ends a turn; empty when none does."""
    stop_id: int | None
    """The token that ends a turn."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template for plain chats, or None. Raises ConfigError for named ones without a default."""
    templates: Any = tokenizer.chat_template
    if not isinstance(templates, dict):
        return templates
    if "default" not in templates:
        names = ", ".join(sorted(map(str, templates)))
        raise ConfigError(
            f"the tokenizer has the chat templates {shown(names)} and none called default; "
            "set tokenizer.chat_template to the one to use"
        )
    return templates["default"]


def dialect_of(tokenizer: PreTrainedTokenizerBase) -> Dialect | None:
    """How the tokenizer's template writes; None without one. Raises ConfigError where it leaves turns out."""
    template = template_of(tokenizer)
    return None if template is None else _probe(tokenizer, template)


def write(
    tokenizer: PreTrainedTokenizerBase, dialect: Dialect, turns: Turns, system: Sequence[str], *, ask: bool
) -> str:
    """A chat as the template writes it; with `ask`, up to where the answer begins. Raises ConfigError."""
    messages: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in turns]
    if system and dialect.takes_system:
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    elif system:
        first = next((m for m in messages if m["role"] == "user"), None)
        if first is None:
            raise ConfigError(
                "the chat template takes no system message, and there is no user turn to put it in"
            )
        first["content"] = "\n\n".join([*system, first["content"]])
    template = template_of(tokenizer)
    assert template is not None
    try:
        text = _apply(tokenizer, template, messages, ask=ask, in_parts=dialect.in_parts)
    except _RAISED as error:
        raise ConfigError(f"the chat template refuses these turns: {reason_of(error)}") from error
    # What users, assistants and the first system turn say, probes have seen; a template may change it.
    for message in messages[1:]:
        if message["role"] in ("system", "tool") and not _is_in(text, message["content"]):
            raise ConfigError(
                f"the chat template leaves out what a {message['role']} turn says, "
                f"{shown(message['content'])}; leave such chats out, or use a template that writes it"
            )
    return text + dialect.before_answer if ask else text


def _is_in(text: str, content: str) -> bool:
    """Whether a template wrote a content: as it is, trimmed, or as JSON, whose spaces may differ."""
    told = content.strip()
    as_json = json.dumps(told, ensure_ascii=False)[1:-1]
    bare = "".join(text.split())
    return any("".join(form.split()) in bare for form in (told, as_json, json.dumps(told)[1:-1]))


@lru_cache(maxsize=8)
def _probe(tokenizer: PreTrainedTokenizerBase, template: str) -> Dialect:
    question = [{"role": "user", "content": _QUESTION}]
    chat = [*question, {"role": "assistant", "content": _ANSWER}]
    raised: BaseException | None = None
    for in_parts in (False, True):
        try:
            whole = _apply(tokenizer, template, chat, ask=False, in_parts=in_parts)
            if _QUESTION in whole and _ANSWER in whole:
                break
        except _RAISED as error:
            raised = raised or error
    else:
        if raised is not None:
            raise ConfigError(f"the chat template refuses a question and an answer: {reason_of(raised)}")
        raise ConfigError("the chat template leaves the question or the answer out; check the template")
    bare = _apply(tokenizer, template, question, ask=False, in_parts=in_parts)
    asked = _apply(tokenizer, template, question, ask=True, in_parts=in_parts)
    before, _, after = whole.rpartition(_ANSWER)
    header = before[len(bare) :] if before.startswith(bare) else ""
    # Without its spaces: most tokenizers join a space to the word behind it.
    before_answer = header.rstrip(" ") if asked == bare and header.strip() else ""
    asked += before_answer
    end, stop_id = _end(tokenizer, after)
    return Dialect(
        takes_system=_takes_system(tokenizer, template, in_parts),
        in_parts=in_parts,
        header=header,
        before_answer=before_answer,
        lead=before[len(asked) :] if before.startswith(asked) else "",
        after=after,
        end=end,
        stop_id=stop_id,
    )


def _end(tokenizer: PreTrainedTokenizerBase, after: str) -> tuple[str, int | None]:
    """The text up to the first token behind an answer that is a mark of its own, and that token."""
    marks = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    if isinstance(tokenizer.eos_token_id, int):
        marks[str(tokenizer.eos_token)] = tokenizer.eos_token_id
    found = [(after.find(mark), -len(mark), mark) for mark in marks if mark in after]
    if not found:
        return "", None
    place, length, mark = min(found)
    return after[: place - length], marks[mark]


def _takes_system(tokenizer: PreTrainedTokenizerBase, template: str, in_parts: bool) -> bool:
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}]
    try:
        return _SYSTEM in _apply(tokenizer, template, turns, ask=False, in_parts=in_parts)
    except _RAISED:
        return False


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: list[dict[str, Any]],
    *,
    ask: bool,
    in_parts: bool,
) -> str:
    if in_parts:
        messages = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
    text: Any = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=ask, chat_template=template
    )
    return text
