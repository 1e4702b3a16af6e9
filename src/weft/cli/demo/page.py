"""The page of a demo, for a terminal of 80 columns."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from weft.cli.demo.act import Act, Answer, Played
from weft.cli.shared.screen import stdout
from weft.plain import plain
from weft.registry import NAMED

_WIDTH = 80
_COLUMNS = (1, 27, 22, 21, 5)
"""A margin, the input, the answer without an adapter, the answer with one, right or wrong."""


def print_head(act: Act) -> None:
    """Who answers, before anything is loaded."""
    model = f" ({NAMED[act.base].about.split(',')[0]})" if act.base in NAMED else ""
    how = (
        "Without an adapter the base is told the sentence in its prompt. With one it reads the input alone: "
        "what it knows of the task is in the adapter."
        if act.described
        else "The prompt is the input alone: what the model knows of the task is in the adapter."
    )
    console = stdout(_WIDTH)
    width = min(console.width, _WIDTH)
    base, maker = plain(act.base), plain(act.hypernetwork)
    made = f"{base}{model} is frozen; {maker} turns a sentence into a LoRA adapter for it."
    console.print(Text(f"{made} {how}"), width=width)
    console.print()


def print_act(played: Played) -> None:
    """Every description with its answers, and the sum."""
    console = stdout(_WIDTH)
    width = min(console.width, _WIDTH)
    if not played.acts:
        console.print(
            Text("This hypernetwork was not trained: its adapters change nothing.\n", style="bold red")
        )
    heads = ("", "", "base, told" if played.act.described else "base alone", "adapter", "")
    console.print(_table([tuple(Text(head, style="dim") for head in heads)]), width=width)
    for description in dict.fromkeys(answer.description for answer in played.answers):
        cells = [_cells(answer) for answer in played.answers if answer.description == description]
        console.print(Text(plain(description), style="bold cyan"), width=width)
        console.print(_table(cells), width=width)
    console.print()
    console.print(Text(_sum(played)), width=width)
    console.print()


def print_foot(act: Act) -> None:
    """What to try next."""
    words, text = (
        ("Give me the surname.", "Anna Keller") if act.described else ("double every letter", "weft")
    )
    own = f" --with {plain(act.hypernetwork)}"
    base = f" --base {plain(act.base)}"
    lines = (
        ("Your own sentence:", f'weft demo{own} --describe "{words}" --input "{text}"'),
        ("Keep an adapter:", f'weft adapt "{words}"{own} -o out/'),
        ("Use it:", f'weft generate "{text}" --adapter out/{base}'),
    )
    for name, line in lines:
        stdout(_WIDTH).print(Text(f"{name}\n  {line}"), soft_wrap=True)


def _table(rows: list[tuple[Text, ...]]) -> Table:
    table = Table.grid(padding=(0, 1))
    for place, width in enumerate(_COLUMNS):
        # What the base says at length is cut; what the adapter says is the point, and is not.
        base = place == 2
        table.add_column(width=width, overflow="ellipsis" if base else "fold", no_wrap=base)
    for row in rows:
        table.add_row(*row)
    return table


def _cells(answer: Answer) -> tuple[Text, ...]:
    right = answer.adapted == answer.expected
    mark = "" if answer.expected is None else "right" if right else "wrong"
    return (
        Text(""),
        Text(plain(answer.input)),
        Text(plain(answer.base), style="dim"),
        Text(plain(answer.adapted), style="bold"),
        Text(mark, style="green" if right else "red"),
    )


def _sum(played: Played) -> str:
    known = [answer for answer in played.answers if answer.expected is not None]
    made = (
        f"{played.adapters} adapter{'s' * (played.adapters > 1)} (rank {played.rank}, {played.sites} sites)"
    )
    took = (
        f"{made} in one forward, {played.making:.2f} s. All answers in one batch, {played.answering:.1f} s. "
        f"Loading: {played.loading:.1f} s."
    )
    if not known:
        return took
    base = sum(answer.base == answer.expected for answer in known)
    adapted = sum(answer.adapted == answer.expected for answer in known)
    who = "the base that is told" if played.act.described else "the base alone"
    return f"Exactly right: the adapters {adapted} of {len(known)}, {who} {base}. {took}"
