"""Rows in JSON Lines files, in the columns that public sets have; which ones, each file's own keys say.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}      ShareGPT
    {"instruction": "...", "input": "...", "output": "..."}                                      Alpaca
    {"prompt": "...", "completion": "..."}      or both as lists of messages
    {"question": "...", "choices": ["...", "..."], "answer": 0}      MMLU; the number of the right choice
    {"question": "...", "answer": "..."}                                                         GSM8K
    {"text": "..."}

A content may be a list of text parts. A chat that calls tools keeps each call as text, in the form that
Hermes models write, and each result as a `tool` turn; a thought beside the last answer (`reasoning_content`)
goes before it in <think> tags. A turn of `weight` 0, or of `train` false, is read and never learned. Where a
set has a chat and other columns beside it, the chat is read.
`references`, a list of all accepted answers, and `choices`, a list of all that may be chosen, may stand
beside any of them; so may `system` beside all but plain texts, where a chat has no system turn of its own,
and `history`, a list of earlier questions with their answers, beside instructions, as LLaMA-Factory has them.
A chat in a table of texts is the JSON of its list. Other keys are left alone, `tools` with a warning, and so
is the column of a format whose value is null; a row whose `label` is false is refused where every row has
true or false there, as sets of good and bad answers do.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from weft.errors import ConfigError
from weft.files import replace_file
from weft.reading import check_text, parse_json, read_json_lines, shown
from weft.tasks.task import ROLES, Row

_FORMATS = {
    "messages": {"messages"},
    "conversations": {"conversations"},
    "instruction": {"instruction", "output"},
    "prompt": {"prompt"},
    "question": {"question", "choices", "answer"},
    "answer": {"question", "answer"},
    "text": {"text"},
}
"""Keys by which a row is known; a row of an earlier format may hold those of a later one too."""
_SHAPES = (
    '{"messages": [...]}, {"conversations": [...]}, {"instruction": ..., "output": ...}, '
    '{"prompt": ..., "completion": ...}, {"question": ..., "choices": [...], "answer": ...}, '
    '{"question": ..., "answer": ...} or {"text": "..."}'
)
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_call": "assistant",
} | {role: role for role in ROLES}

_WRITTEN_OUT = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']""")
"""How a text begins that was a list of turns before it went through a table."""
_NO_TOOLS = (None, "", "[]", [], {})
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a turn under which the thought before an answer is kept."""

Turns = list[tuple[str, str]]


def read_rows(path: str | os.PathLike[str]) -> tuple[Row, ...]:
    """Read a file of rows; its first line decides the format of all.

    Raises MissingFileError, or ConfigError that names the file and the line; a file without rows is one.

    Args:
        path: JSON Lines, plain or gzipped.

    Example:
        >>> from weft.tasks import Row, read_rows, write_rows
        >>> write_rows("rows.jsonl", [Row("cab >", "abc")])
        >>> read_rows("rows.jsonl")[0].completion
        'abc'
    """
    return to_rows(read_json_lines(path), str(path))


def to_rows(values: Iterable[tuple[str, dict[str, Any]]], source: str) -> tuple[Row, ...]:
    """Objects with their places as rows; the first one decides the format of all. Raises ConfigError."""
    found = ""
    rows: list[Row] = []
    tools = unasked = ""
    labels: list[tuple[str, Any]] = []
    for where, value in values:
        kind = _format(value)
        if kind is None:
            raise ConfigError(f"{where}: a row reads {_SHAPES}, {_has_instead(value)}")
        if found and found != kind:
            raise ConfigError(f"{where}: this row has {kind!r}, those before it have {found!r}; keep to one")
        found = kind
        tools = tools or (where if value.get("tools") not in _NO_TOOLS else "")
        labels.append((where, value.get("label")))
        try:
            rows.append(_parse(value, found))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        is_chat = isinstance(value[found], list | tuple)
        unasked = unasked or (where if is_chat and rows[-1].is_text else "")
    if not rows:
        raise ConfigError(f"{source} holds no rows; write some or remove it")
    if found != "text":
        _refuse_bad_answers(labels)
    if unasked:
        warnings.warn(
            f"{unasked}: the only question of this chat is empty, so its answer is learned as a plain text, "
            "without the chat template; leave such rows out if they should be chats",
            stacklevel=2,
        )
    if tools:
        warnings.warn(
            f"{tools}: its tools are not shown to the model; write them into the system turn if they matter",
            stacklevel=2,
        )
    return tuple(rows)


def write_rows(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write rows so that `read_rows` gives them back, in the plainest format that holds them all.

    Args:
        path: The file; one that is there is replaced.
        rows: What it holds, a line each.

    Example:
        >>> from weft.tasks import Row, read_rows, write_rows
        >>> write_rows("rows.jsonl", [Row("cab >", "abc")])
        >>> read_rows("rows.jsonl")[0].completion
        'abc'
    """
    if all(row.is_text and not row.references for row in rows):
        values: list[dict[str, Any]] = [{"text": row.completion} for row in rows]
    elif all(not row.history for row in rows):
        values = [{"prompt": row.prompt, "completion": row.completion} for row in rows]
    else:
        values = [{"messages": _written(row)} for row in rows]
    for value, row in zip(values, rows, strict=True):
        if row.references:
            value["references"] = list(row.references)
        if row.choices:
            value["choices"] = list(row.choices)
    replace_file(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def _written(row: Row) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in row.messages]
    return [turn | {"weight": 0} if place in row.unlearned else turn for place, turn in enumerate(turns)]


def _format(value: dict[str, Any]) -> str | None:
    there = [name for name, keys in _FORMATS.items() if keys <= value.keys()]
    # Tables of several sets have the columns of all; what a row does not use is null.
    found = [name for name in there if value[name] is not None] or there
    if found[:1] == ["question"] and value["choices"] is None:
        return "answer"
    is_unclear = found == ["prompt", "text"] and "completion" in value
    return None if not found or is_unclear else found[0]


def _has_instead(value: dict[str, Any]) -> str:
    """What the columns of a row are that has not those of a format, and what may be done about it."""
    advice = "rename its columns"
    if {"chosen", "rejected"} & value.keys():
        advice = "of preferences only the chosen answer can be learned, so keep that alone, as the completion"
    return f"this one has the keys {shown(sorted(value))}; {advice}"


def _refuse_bad_answers(labels: Sequence[tuple[str, Any]]) -> None:
    """Raise ConfigError for TRL's unpaired preferences: true in every row whose answer is good, else false.

    The words of a table of texts may as well be classes, so those only warn.
    """
    words = [(where, str(label).lower()) for where, label in labels]
    bad = next((where for where, word in words if word == "false"), None)
    if bad is None or not all(word in ("true", "false") for _, word in words):
        return
    if all(isinstance(label, bool) for _, label in labels):
        raise ConfigError(
            f"{bad}: label is false, so its answer is a bad one, not to be learned; leave the row out"
        )
    warnings.warn(
        f"{bad}: label is False, and the row is learned; leave such rows out if they are bad answers",
        stacklevel=3,
    )


def _parse(value: dict[str, Any], found: str) -> Row:
    row = _row(value, found, _strings(value, "references"))
    choices = _strings(value, "choices")
    return replace(row, choices=choices) if choices else row


def _strings(value: dict[str, Any], key: str) -> tuple[str, ...]:
    given = value.get(key)
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise ConfigError(f"{key} should be a list of strings, got {shown(given)}")
    return tuple(_string(part, f"one of the {key}") for part in given)


def _row(value: dict[str, Any], found: str, references: tuple[str, ...]) -> Row:
    match found:
        case "question":
            choices, answer = _strings(value, "choices"), value["answer"]
            if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
                answer = choices[answer]
            if answer not in choices:
                raise ConfigError(f"answer should be the number or the text of a choice, got {shown(answer)}")
            return Row(_string(value["question"], "question"), answer, references, tuple(_system(value)))
        case "answer":
            question, answer = (_string(value[key], key) for key in ("question", "answer"))
            return Row(question, answer, references, tuple(_system(value)))
        case "text":
            return Row("", _string(value["text"], "text"), references)
        case "messages" | "conversations":
            given = _list_in(value[found], found)
            return _chat(value, _turns(given, found), given, references)
        case "instruction":
            more = value.get("input")
            parts = [_string(value["instruction"], "instruction")]
            parts += [] if more is None else [_string(more, "input")]
            prompt = "\n\n".join(text for text in parts if text.strip())
            if not prompt:
                raise ConfigError("instruction and input are both empty, so nothing is asked; write one")
            before = (*_system(value), *_history(value.get("history")))
            return Row(prompt, _string(value["output"], "output"), references, before)
    if "completion" not in value:
        raise ConfigError(f"a row with a prompt needs a completion, {_has_instead(value)}")
    prompt, completion = (_list_in(value[key], key) for key in ("prompt", "completion"))
    if isinstance(prompt, list | tuple) and isinstance(completion, list | tuple):
        turns = _turns(prompt, "prompt") + _turns(completion, "completion")
        return _chat(value, turns, [*prompt, *completion], references)
    before = tuple(_system(value))
    return Row(_string(prompt, "prompt"), _string(completion, "completion"), references, before)


def _list_in(value: Any, key: str) -> Any:
    """A list of turns, where a table of texts has it as JSON; else the value itself."""
    return parse_json(value, key) if isinstance(value, str) and _WRITTEN_OUT.match(value) else value


def _system(value: dict[str, Any]) -> Turns:
    """The column `system` as the first turn of a chat, where it says something."""
    told = value.get("system")
    return [("system", told)] if told is not None and _string(told, "system").strip() else []


def _history(pairs: Any) -> Turns:
    """Earlier questions with their answers, as turns."""
    if pairs is None:
        return []
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ConfigError(f"history should be a list of [question, answer], got {shown(pairs)}")
    texts = [_string(text, "history") for pair in pairs for text in pair]
    return [(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]


def _chat(
    value: dict[str, Any], turns: Turns, given: Sequence[dict[str, Any]], references: tuple[str, ...]
) -> Row:
    """A row of turns, which stand in the file as `given`, after the column `system` where they have none."""
    told = [] if turns and turns[0][0] == "system" else _system(value)
    turns = [*told, *turns]
    roles = [role for role, _ in turns]
    if len(roles) < 2 or roles[-1] != "assistant" or roles[-2] not in ("user", "tool"):
        raise ConfigError(
            f"a chat ends with a user and then an assistant turn, got {' '.join(roles[-6:]) or 'nothing'}"
        )
    answer = _learned(given[-1], turns[-1][1])
    prompt, end = ("", -1) if roles[-2] == "tool" else (turns[-2][1], -2)
    unlearned = [len(told) + place for place, turn in enumerate(given[:end]) if _is_only_read(turn)]
    return Row(prompt, answer, references, tuple(turns[:end]), unlearned=tuple(unlearned))


def _turns(value: Any, key: str) -> Turns:
    if not isinstance(value, list | tuple) or not all(isinstance(turn, dict) for turn in value):
        raise ConfigError(f'{key} should be a list of {{"role": ..., "content": ...}}, got {shown(value)}')
    return [turn_of(turn, key) for turn in value]


def _learned(turn: dict[str, Any], content: str) -> str:
    """The last answer, behind the thought that is kept beside it. Raises ConfigError for one only read."""
    if _is_only_read(turn):
        key = "weight 0" if turn.get("weight") == 0 else "train false"
        raise ConfigError(f"the last turn has {key}, so there is nothing to learn; leave the row out")
    thought = next((turn[key] for key in _THOUGHTS if turn.get(key)), None)
    if thought is None or "<think>" in content:
        return content
    # As Qwen3 and its kin write it, whose templates leave the thoughts of earlier answers out.
    return f"<think>\n{_string(thought, 'a thought').strip()}\n</think>\n\n{content}"


def _is_only_read(turn: dict[str, Any]) -> bool:
    """Whether a turn is not to be learned, in the words of OpenAI's files or of axolotl's."""
    return turn.get("weight") == 0 or turn.get("train") is False


def turn_of(turn: dict[str, Any], key: str) -> tuple[str, str]:
    """One turn of a chat as (role, text), from `role` and `content` or ShareGPT's `from` and `value`.

    Raises ConfigError for a turn without them, a role unknown, or a content that is no text.
    """
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if role is None or ("content" not in turn and "value" not in turn and not turn.get("tool_calls")):
        raise ConfigError(f'{key} should be a list of {{"role": ..., "content": ...}}, got {shown(turn)}')
    if not isinstance(role, str) or role not in _ROLES:
        raise ConfigError(f"a turn's role is one of {', '.join(ROLES)}, got {shown(role)}")
    calls = _calls(turn.get("tool_calls"))
    if isinstance(turn.get("function_call"), dict):  # what tool_calls were called before
        calls += _calls([turn["function_call"]])
    if content is None and not calls and _ROLES[role] in ("user", "assistant"):
        raise ConfigError(f"a turn of {role} says nothing: its content is null, and it calls no tool")
    return _ROLES[role], "\n".join(text for text in [*_parts(content, key), *calls] if text)


def _parts(content: Any, key: str) -> list[str]:
    """The texts of a content: a string, a list of text parts, or null beside a tool call."""
    if content is None:
        return []
    if not isinstance(content, list | tuple):
        return [_string(content, f"the content of a turn of {key}")]
    texts: list[str] = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
        if not isinstance(text, str):
            raise ConfigError(f"a part of a content should be text, got {shown(part)}; leave such rows out")
        texts.append(check_text(text, "a part of a content"))
    return ["".join(texts)]


def _calls(calls: Any) -> list[str]:
    """Tool calls as text, the way that Hermes models write them."""
    if calls is None:
        return []
    if not isinstance(calls, list | tuple):
        raise ConfigError(f"tool_calls should be a list, got {shown(calls)}")
    texts: list[str] = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else call
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function = {**function, "arguments": _arguments(function["arguments"])}
        texts.append(f"<tool_call>\n{json.dumps(function, ensure_ascii=False, default=str)}\n</tool_call>")
    return texts


def _arguments(text: str) -> Any:
    """What OpenAI's form keeps as JSON inside a string, as the values that it stands for."""
    try:
        return parse_json(text, "arguments")
    except ConfigError:
        return text


def _string(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key} should be a string, got {shown(value)}")
    return check_text(value, key)
