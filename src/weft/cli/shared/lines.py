"""Prompts from outside: lines of standard input, whatever bytes they are, and files of prompts or chats."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.errors import ConfigError
from weft.reading import decode, read_json_lines, read_lines, shown, shown_path

Turns = list[dict[str, str]]
"""A chat, as `Engine.generate` reads it."""


def stdin_lines() -> Iterator[str]:
    """Lines that are not blank, without the spaces around them. Raises ConfigError for one not in UTF-8."""
    stream = sys.stdin.buffer if isinstance(sys.stdin, io.TextIOWrapper) else sys.stdin
    for number, content in enumerate(stream, 1):
        where = f"standard input, line {number}"
        line = decode(content, where) if isinstance(content, bytes) else content
        if line.strip():
            yield line.strip()


def read_prompts(path: Path) -> list[str | Turns]:
    """Prompts of a file: one a line; or, in JSON Lines, what stands under `messages` or `prompt` in each.

    An answer at the end of a chat is left out, so that rows with answers can be asked again. Raises
    MissingFileError, or ConfigError that names the line.
    """
    if path.suffix not in (".jsonl", ".ndjson", ".gz"):
        prompts: list[str | Turns] = [line.strip() for _, line in read_lines(path)]
    else:
        prompts = [_asked(value, where) for where, value in read_json_lines(path)]
    if not prompts:
        raise ConfigError(f"{shown_path(path)} holds no prompts")
    return prompts


def _asked(value: dict[str, Any], where: str) -> str | Turns:
    from weft.tasks.rows import turn_of

    found = value.get("messages", value.get("prompt"))
    if isinstance(found, str):
        return found
    if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
        raise ConfigError(
            f'{where}: a line reads {{"prompt": "..."}} or {{"messages": [...]}}, this one has '
            f"{shown(sorted(value))}"
        )
    try:
        turns = [turn_of(turn, "messages") for turn in found]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if turns and turns[-1][0] == "assistant":
        turns = turns[:-1]
    if not turns:
        raise ConfigError(f"{where}: there is nothing to answer in this chat")
    return [{"role": role, "content": content} for role, content in turns]
