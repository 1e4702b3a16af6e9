"""Rows in JSON Lines files, in the formats that TRL reads; which one, each file's own keys say.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}      or both as lists of messages
    {"text": "..."}

`references`, a list of all accepted answers, may stand beside any of them; other keys are left alone.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weft.errors import ConfigError, MissingFileError
from weft.files import replace_file
from weft.tasks.task import Row

_FORMATS = ("messages", "prompt", "text")
_SHAPES = '{"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": "..."}'


def read_rows(path: str | os.PathLike[str]) -> tuple[Row, ...]:
    """Read a file of rows; its first line decides the format of all.

    Raises MissingFileError, or ConfigError that names the file and the line; a file without rows is one.
    """
    found = ""
    rows: list[Row] = []
    for where, value in read_json_lines(path):
        present = [name for name in _FORMATS if name in value]
        if len(present) != 1:
            raise ConfigError(f"{where}: a row reads {_SHAPES}, this one has the keys {sorted(value)}")
        if found and found != present[0]:
            raise ConfigError(
                f"{where}: this row has {present[0]!r}, those before it have {found!r}; keep to one"
            )
        found = present[0]
        try:
            rows.append(_parse(value, found))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    if not rows:
        raise ConfigError(f"{path} holds no rows; write some or remove it")
    return tuple(rows)


def write_rows(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write rows so that `read_rows` gives them back, in the plainest format that holds them all."""
    if all(row.is_text and not row.references for row in rows):
        values: list[dict[str, Any]] = [{"text": row.completion} for row in rows]
    elif all(not row.history for row in rows):
        values = [{"prompt": row.prompt, "completion": row.completion} for row in rows]
    else:
        values = [{"messages": [{"role": r, "content": c} for r, c in row.messages]} for row in rows]
    for value, row in zip(values, rows, strict=True):
        if row.references:
            value["references"] = list(row.references)
    replace_file(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file, line n", object) for every line that is not blank; a name ending in .gz is unpacked.

    Raises MissingFileError, or ConfigError that names the file and the line.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"no such file: {file}")
    opener = gzip.open if file.suffix == ".gz" else open
    number = 0
    with opener(file, "rt", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{file}, line {number}"
                    yield where, _object(line, where)
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ConfigError(f"{file} cannot be read after line {number}: {error}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: a line holds one JSON object, got {str(value)[:80]}")
    return value


def _parse(value: dict[str, Any], found: str) -> Row:
    given = value.get("references", [])
    if not isinstance(given, list):
        raise ConfigError(f"references should be a list of strings, got {str(given)[:80]}")
    references = tuple(_string(answer, "a reference") for answer in given)
    if found == "text":
        return Row("", _string(value["text"], "text"), references)
    if found == "messages":
        return _chat(_turns(value["messages"], "messages"), references)
    if "completion" not in value:
        raise ConfigError("a row with a prompt needs a completion")
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return Row(prompt, completion, references)
    return _chat(_turns(prompt, "prompt") + _turns(completion, "completion"), references)


def _chat(turns: list[tuple[str, str]], references: tuple[str, ...]) -> Row:
    roles = [role for role, _ in turns]
    if roles[-2:] != ["user", "assistant"]:
        raise ConfigError(
            f"a chat ends with a user and then an assistant turn, got {' '.join(roles) or 'nothing'}"
        )
    return Row(turns[-2][1], turns[-1][1], references, tuple(turns[:-2]))


def _turns(value: Any, key: str) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not all(
        isinstance(m, dict) and m.keys() >= {"role", "content"} for m in value
    ):
        raise ConfigError(f'{key} should be a list of {{"role": ..., "content": ...}}, got {str(value)[:80]}')
    return [(_string(m["role"], "role"), _string(m["content"], "content")) for m in value]


def _string(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key} should be a string, got {str(value)[:80]}")
    return value
