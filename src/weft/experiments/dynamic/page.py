"""The page of `weft experiment dynamic`: a table per section."""

from collections.abc import Mapping, Sequence

from weft.evaluate.tables import markdown_table
from weft.experiments.dynamic.table import Line

TITLES = {
    "shift": "Shift: a special token and a vector",
    "words": "Context: facts of letters among lines that say nothing",
    "sheets": "Context: fact sheets in plain English",
    "books": "Context: books beyond the window",
    "context": "Context: what leaves the window enters the weights",
    "stack": "Stack: as much network as the problem needs",
    "mix": "Mix: a third network over both",
}
PICTURED = {
    "shift": ("answers right, streams of ", "share of the answers"),
    "sheets": ("1 of 1 facts", "share of the answers"),
    "books": ("share of the gap", "share of the gap between window and full context"),
    "context": ("1 of 1 facts in ", "share of the answers"),
    "mix": ("questions right", "share of the questions"),
}
"""What the picture of a section shows: how its lines begin, and their unit."""


def pictured(name: str, lines: Sequence[Line]) -> list[Line]:
    """The lines of a section that its picture shows, who by who for each measured thing."""
    shown = [line for line in lines if line.what.startswith(PICTURED[name][0])]
    return [
        line for what in dict.fromkeys(line.what for line in shown) for line in shown if line.what == what
    ]


def dynamic_page(
    sections: Mapping[str, Sequence[Line]], *, command: str, pictures: Mapping[str, str] | None = None
) -> str:
    """Everything that was measured. An interval is that of Student's t over seeds, or over a seed's streams.

    `pictures` are files beside the page, by section.
    """
    parts = [f"# Adapters that change while the model runs\n\nMade by `{command}`.\n"]
    for name, lines in sections.items():
        table = markdown_table(
            [["measured", "who", "value"], *([line.what, line.who, line.shown] for line in lines)]
        )
        picture = f"![{TITLES[name]}]({pictures[name]})\n\n" if pictures else ""
        parts.append(f"## {TITLES[name]}\n\n{picture}{table}\n")
    return "\n".join(parts)
