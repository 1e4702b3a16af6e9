"""Tables of a report, as text and as Markdown, and what a report says of how it was made."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
import transformers
import yaml

import weft
from weft.config import Config
from weft.evaluate.intervals import Interval

Cells = Sequence[Sequence[str]]
"""Rows of a table, the header first."""


def show_interval(value: Interval, *, sign: bool = False) -> str:
    """`0.812 [0.774, 0.851]`."""
    # + 0.0 makes of a negative zero a positive one
    mean, low, high = (
        f"{round(x, 3) + 0.0:{'+' if sign else ''}.3f}" for x in (value.mean, value.low, value.high)
    )
    return f"{mean} [{low}, {high}]"


def text_table(cells: Cells) -> str:
    """Columns padded to their widest cell."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(cells: Cells) -> str:
    """The same for a Markdown page."""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|" + " --- |" * len(cells[0]))
    return "\n".join(lines)


def how_made(recipe: Config, command: str, about: str = "") -> list[str]:
    """The last section of a page: what it was made with, and how to make it again."""
    listed = ", ".join(f"{name} {version}" for name, version in versions().items())
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    parts = ["## How it was made", f"{about}Made with {listed}."]
    return [*parts, f"```sh\n{command}\n```", f"```yaml\n{text}```"]


def versions() -> dict[str, str]:
    """Of everything that a number may depend on."""
    return {
        "weft": weft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
