"""The page of `weft experiment dynamic`: a table per section."""

from collections.abc import Mapping, Sequence

from weft.experiments.dynamic.table import Line

TITLES = {
    "shift": "Shift: a special token and a vector",
    "context": "Context: what leaves the window enters the weights",
    "stack": "Stack: as much network as the problem needs",
    "mix": "Mix: a third network over both",
}


def dynamic_page(sections: Mapping[str, Sequence[Line]], *, command: str) -> str:
    """Everything that was measured. An interval is that of Student's t over seeds, the values follow it."""
    parts = [f"# Adapters that change while the model runs\n\nMade by `{command}`.\n"]
    for name, lines in sections.items():
        table = ["| measured | who | value |", "| --- | --- | --- |"]
        table += [f"| {line.what} | {line.who} | {line.shown} |" for line in lines]
        parts.append(f"## {TITLES[name]}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)
