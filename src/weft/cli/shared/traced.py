"""A trace for people: every token in the colour of what acted on it, the events in the margin; or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weft.plain import plain

if TYPE_CHECKING:
    from weft.engine.trace import Acting, Traced

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")


def print_trace(tokenizer: Any, prompt: str, traced: Sequence[Traced]) -> None:
    """Print spans of tokens under what acted on them: the text, and in the margin what happened behind it.

    Without colours (a file, NO_COLOR) the margin says all the same.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    colours: dict[Acting, str] = {}
    table.add_row(Text(_shown(prompt), style="dim"), Text("prompt", style="dim"))
    spans: list[list[Traced]] = []
    for one in traced:
        if not spans or spans[-1][-1].acting != one.acting or spans[-1][-1].events:
            spans.append([])
        spans[-1].append(one)
    for span in spans:
        style = colours.setdefault(span[0].acting, _COLOURS[len(colours) % len(_COLOURS)])
        text = Text()
        for one in span:
            piece = _shown(tokenizer.decode([one.token_id]))
            text.append(f"<{piece.strip()}>" if one.silent else piece, "reverse" if one.silent else style)
        acting = " ".join(f"{_shown(name)}:{weight:g}" for name, weight in span[0].acting) or "base"
        margin = Text(acting, style)
        for event in span[-1].events:
            margin.append(f"  -> {_shown(event)}", "bold")
        table.add_row(text, margin)
    console.print(table)


def _shown(text: str) -> str:
    return plain(text).replace("\n", "\\n")
