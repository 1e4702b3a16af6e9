"""One file of rows as a task of its own: JSON Lines, JSON, CSV, TSV, Parquet, or a data set of the Hub.

What holds text is read here, every cell as the text that it is: readers of tables make 7 of 007, a date of
2024-01-01 and nothing of NA. Parquet is read by `pyarrow`, which keeps no copy of it; the Hub by `datasets`.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from weft.errors import ConfigError, MissingExtraError, MissingFileError
from weft.plain import reason_of
from weft.reading import check_file, read_json, read_json_lines, refuse_pointer, shown, shown_path
from weft.tasks.rows import read_rows, to_rows
from weft.tasks.task import Row, Task

_LINES = (".jsonl", ".jsonl.gz", ".ndjson")
_COLUMNS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = ";\t,"
"""What else separates the columns of such a file, where its first line has not the usual."""
_OTHERS = (*_COLUMNS, ".parquet", ".json")
_LONGEST_CELL, _JSON_BYTES = 64 << 20, 1 << 30
_EVERY = re.compile(r"(train|data)(-\d+-of-\d+)?")
"""How files and folders of rows are called whatever they hold."""
_HUB = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def load_file_task(
    path: str,
    *,
    test: str | None = None,
    test_ratio: float = 0.1,
    name: str | None = None,
    descriptions: Sequence[str] = (),
) -> Task:
    """A file of rows as one task; without a file `test`, a share of its rows is kept to measure on.

    Which rows those are, the hash of each row says, so that adding rows moves none. Raises MissingFileError,
    MissingExtraError, or ConfigError that names the file and the line or the name.
    """
    train = read_table(path)
    tests: tuple[Row, ...] = ()
    if test is not None:
        tests = read_table(test)
    elif test_ratio:
        places = [_place(row) for row in train]
        tests = tuple(row for row, place in zip(train, places, strict=True) if place < test_ratio)
        train = tuple(row for row, place in zip(train, places, strict=True) if place >= test_ratio)
        if not train:
            train, tests = tests, ()
    name = name or _named(Path(path))
    return Task(name, tuple(descriptions) or (name.replace("-", " ").replace("_", " "),), train, tests)


def read_table(path: str | os.PathLike[str]) -> tuple[Row, ...]:
    """Rows of a file, or of a data set of the Hub where there is no such file.

    Raises ConfigError for another kind of file, and what loading raises.
    """
    text = os.fspath(path)
    if text.lower().endswith(_LINES):
        return read_rows(text)
    kind = Path(text).suffix.lower()
    if kind not in _OTHERS and not os.path.exists(text) and _HUB.fullmatch(text):
        return to_rows(_of_hub(text), text)
    file = check_file(text)
    with file.open("rb") as content:
        refuse_pointer(content.read(64), shown_path(file))
    if kind in _COLUMNS:
        found = _cells(file, _COLUMNS[kind])
    elif kind == ".json":
        found = _objects(file)
    elif kind == ".parquet":
        found = _parquet(file)
    else:
        known = ", ".join((*_LINES, *_OTHERS))
        raise ConfigError(f"{shown_path(file)} is no file of rows; its name should end in {known}")
    return to_rows(found, shown_path(file))


def rows_file(folder: Path, part: str) -> Path | None:
    """The file of a folder that holds this part of its rows: `train.jsonl`, or one of another kind.

    Raises ConfigError for several.
    """
    if (folder / f"{part}.jsonl").is_file():
        return folder / f"{part}.jsonl"
    known = {f"{part}{ending}" for ending in (*_LINES, *_OTHERS)}
    found = sorted(file for file in folder.iterdir() if file.name.lower() in known)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ConfigError(f"{shown_path(folder)} has several files of {part} rows ({names}); keep one")
    return found[0] if found else None


def _objects(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A list of objects, or an object a line."""
    with file.open("rb") as content:
        start = content.read(1 << 10).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start != b"[":
        yield from read_json_lines(file)
        return
    for number, value in enumerate(read_json(file, _JSON_BYTES, unique=True), 1):
        where = f"{shown_path(file)}, row {number}"
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: a row is a JSON object, got {shown(value)}")
        yield where, value


def _cells(file: Path, separator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Columns by the names in the first line; an empty cell is null."""
    name, before = shown_path(file), csv.field_size_limit(_LONGEST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline(_LONGEST_CELL)
            lines.seek(0)
            separator = next((mark for mark in (separator, *_SEPARATORS) if mark in first), separator)
            reader = csv.reader(_bounded(lines, name), delimiter=separator, strict=True)
            header = next(reader, [])
            twice = next((column for column in header if header.count(column) > 1), None)
            if twice is not None:
                raise ConfigError(f"{name}: the column {shown(twice)} is there twice; rename one")
            for number, cells in enumerate((cells for cells in reader if cells), 1):
                where = f"{name}, row {number}"
                if len(cells) != len(header):
                    raise ConfigError(f"{where} has {len(cells)} cells, the first line names {len(header)}")
                yield where, {column: cell or None for column, cell in zip(header, cells, strict=True)}
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        advice = "; save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise ConfigError(
            f"{name} cannot be read as a {file.suffix[1:]} file: {_said(error)}{advice}"
        ) from error
    finally:
        csv.field_size_limit(before)


def _bounded(lines: TextIO, name: str) -> Iterator[str]:
    """Lines of a table, none of which is read whole before its length is known."""
    while line := lines.readline(_LONGEST_CELL):
        if len(line) == _LONGEST_CELL:
            raise ConfigError(f"{name} has a line of more than {_LONGEST_CELL} characters")
        yield line


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError("a parquet file needs the extra data: pip install 'weft[data]'") from error
    name, number = shown_path(file), 0
    try:
        with ParquetFile(file) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}, row {number}", {key: _without_nulls(cell) for key, cell in row.items()}
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{name} cannot be read as a parquet file: {_said(error)}") from error


def _of_hub(name: str) -> Iterator[tuple[str, Any]]:
    what = "a data set of the Hub"
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise MissingExtraError(f"{what} needs the extra data: pip install 'weft[data]'") from error
    datasets.disable_progress_bars()
    try:
        for number, row in enumerate(datasets.load_dataset(name, split="train"), 1):
            yield (
                f"{shown_path(name)}, row {number}",
                {key: _without_nulls(v) for key, v in dict(row).items()},
            )
    except (ConnectionError, FileNotFoundError) as error:
        raise MissingFileError(
            f"no data {shown(name)} here, nor within reach on the Hub ({_said(error)})"
        ) from error
    # A data set without rows ends in whatever its reader runs into.
    except (OSError, ValueError, TypeError, RuntimeError, StopIteration, DatasetsError) as error:
        raise ConfigError(f"{shown_path(name)} cannot be read as {what}: {_said(error)}") from error


def _without_nulls(value: Any) -> Any:
    """A cell without the null keys that such tables put into each object for the keys of all the others."""
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    if not isinstance(value, dict):
        return value
    # What a turn says is null on purpose beside a call.
    return {k: _without_nulls(part) for k, part in value.items() if part is not None or k == "content"}


def _said(error: Exception) -> str:
    return reason_of(error.__cause__ or error)


def _named(file: Path) -> str:
    """The name of a file without its ending, or of the nearest folder that says more than `train` does."""
    names = [file.name.split(".")[0], *(folder.name for folder in file.absolute().parents)]
    told = next((name for name in names if name and not _EVERY.fullmatch(name)), names[0])
    return re.sub(r"[^\w.+-]+", "-", told, flags=re.ASCII).strip("-._+") or "rows"


def _place(row: Row) -> float:
    """Where a row stands in [0, 1), by its hash."""
    content = "\x00".join([row.completion, *(text for turn in row.question for text in turn)])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:6], "big") / (1 << 48)
