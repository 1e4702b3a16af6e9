"""What the verbs print: tables and pairs for people, JSON for machines."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.plain import json_text, plain

_PAGE = 100
_ENDLESS = 100_000
_LEAST = 40
"""In fewer columns a table would leave out what does not fit; the terminal folds its lines instead."""


def stdout(piped_width: int = _PAGE) -> Console:
    """Standard output, so many columns wide where it is no terminal and COLUMNS does not say otherwise."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(file=sys.stdout, width=piped_width if piped else None, highlight=False)
    console.width = max(console.width, _LEAST)
    return console


def print_json(value: Any) -> None:
    """One JSON document and nothing else."""
    print(json_text(value))


def spoken(text: str) -> str:
    """What a model says, as it is for a pipe; for a terminal without the characters that would steer it."""
    return plain(text, keep="\n\t") if sys.stdout.isatty() else text


def print_pairs(pairs: Mapping[str, object]) -> None:
    """One line per name and value, the values in one column; a pipe gets them unwrapped."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(Text(plain(name)), Text(readable(value)))
    _print(grid)


def print_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """A table whose columns are the keys of the first row; a pipe gets one line per row."""
    table = build_table(list(rows[0]) if rows else [])
    for row in rows:
        table.add_row(*(Text(readable(value)) for value in row.values()))
    _print(table)


def _print(table: Table) -> None:
    """To a terminal as it is; to a pipe without the spaces that fill its columns up at the end of a line."""
    console = stdout(_ENDLESS)
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as shown:
        console.print(table)
    print("\n".join(_cut_rule(line.rstrip()) for line in shown.get().splitlines()))


def _cut_rule(line: str) -> str:
    """The rule below a head no longer than a page; it is as long as the longest cell."""
    return line[:_PAGE] if line and not line.strip("\u2500") else line


def build_table(columns: Sequence[str]) -> Table:
    """An empty table in the style that all verbs share."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(plain(column)), overflow="fold")
    return table


def readable(value: object) -> str:
    """A cell: short numbers, lists joined, nothing for None."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        parts = [readable(part) for part in value]
        return ("\n" if any(" " in part for part in parts) else ", ").join(parts)
    return "" if value is None else plain(str(value), keep="\n")
