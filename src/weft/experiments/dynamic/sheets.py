"""Fact sheets in plain English on a base that knows it: what the weights alone know of one, and side effects.

One training; every value is that of one sheet, all with names that no training had, and values that none had
with their kind. Greedy: an answer is right when each of its tokens, the full stop too, is the likeliest one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from weft.config import Config, Size
from weft.experiments.dynamic.asked import rights
from weft.experiments.dynamic.table import Line, line_of
from weft.host import Host
from weft.hyper import ContextNetwork
from weft.reading import read_text
from weft.tasks import Encoded, Task, render_raw
from weft.tasks.facts.known import KNOWN
from weft.tasks.facts.sheets import KINDS, sheet_task
from weft.types import Adapter

WEIGHTS = "the weights alone"
SINGLE = "1 of 1 facts"
ASIDE = "the question of a sheet about somebody else"


class SheetsComparison(Config):
    """`sheets` in the recipe of `weft experiment dynamic`."""

    run: str
    """Folder of a training, `weft train context`: its network and its metrics."""
    base: str
    """Embedded name, folder or hub id of the frozen base."""
    documents: Size = 200
    """Sheets per line of the table."""
    facts: tuple[int, ...] = (1, 2)
    """Facts of a sheet."""
    alike: tuple[int, ...] = (2,)
    """Facts of a sheet whose facts are all of one kind."""


def measure_sheets(comparison: SheetsComparison, tell: Callable[[str], None] = lambda _: None) -> list[Line]:
    """All lines of the section, each with one value per sheet. Raises what loading raises."""
    run = Path(comparison.run)
    host = Host.from_pretrained(comparison.base, dtype="float32")
    network = ContextNetwork.from_pretrained(run / "context", host=host)
    lines = []
    for alike, sizes in ((False, comparison.facts), (True, comparison.alike)):
        for facts in sizes:
            tell(f"sheets of {facts}{', of one kind' if alike else ''}")
            lines += find_facts(network, comparison, facts, alike=alike)
    lines += curve(run)
    tell("side effects")
    return lines + side_effects(network, comparison)


def find_facts(
    network: ContextNetwork, comparison: SheetsComparison, facts: int, *, alike: bool = False
) -> list[Line]:
    """How much of sheets is answered from the weights, from the prompt, and from neither; then by kind."""
    host, sheets = network.host, _sheets(comparison, facts, alike=alike)
    own = [network.adapt(sheet.descriptions[0]) for sheet in sheets]
    bare = [_questions(host, sheet) for sheet in sheets]
    told = [_questions(host, sheet, told=True) for sheet in sheets]
    found = {
        "the sheet in the prompt, no adapter": rights(host, None, told),
        WEIGHTS: rights(host, own, bare),
        "the weights of another sheet": rights(host, _turned(own), bare),
        "neither": rights(host, None, bare),
    }
    what = f"{facts} of {facts} facts{' of one kind' if alike else ''}"
    lines = [line_of(what, who, values) for who, values in found.items()]
    if facts == 1 and not alike:
        kinds = [_kind(sheet) for sheet in sheets]
        for kind in dict.fromkeys(kinds):
            values = [
                value for value, own_kind in zip(found[WEIGHTS], kinds, strict=True) if own_kind == kind
            ]
            lines.append(line_of(f"by kind, {len(values)} sheets: {kind}", WEIGHTS, values))
    return lines


def curve(run: Path) -> list[Line]:
    """What each evaluation of the training found, on its validation sheets of one fact."""
    entries = [json.loads(line) for line in read_text(run / "metrics.jsonl").splitlines()]
    return [
        line_of(f"{SINGLE}, by steps of training", f"{entry['step']} steps", [entry["right/facts-1"]])
        for entry in entries
        if "right/facts-1" in entry
    ]


def side_effects(network: ContextNetwork, comparison: SheetsComparison) -> list[Line]:
    """Other sheets in the prompt, general knowledge, two sheets at once, and one of them taken out."""
    host, sheets = network.host, _sheets(comparison, 1)
    own = [network.adapt(sheet.descriptions[0]) for sheet in sheets]
    other = _turned(own)
    told = [_questions(host, sheet, told=True) for sheet in sheets]
    bare = [_questions(host, sheet) for sheet in sheets]
    both = [network.join(pair) for pair in zip(own, other, strict=True)]
    known = [[render_raw(host.tokenizer, row)] for row in KNOWN]
    turned = [own[k % len(own)] for k in range(len(known))]
    aside = [[render_raw(host.tokenizer, row) for row in sheet.unanswered] for sheet in sheets]
    aside_told = [
        [render_raw(host.tokenizer, row, description=sheet.descriptions[0]) for row in sheet.unanswered]
        for sheet in sheets
    ]
    at_hand = "facts in the prompt"
    return [
        line_of(at_hand, "no adapter", rights(host, None, told)),
        line_of(at_hand, "another sheet in the weights", rights(host, other, told)),
        line_of(f"{len(KNOWN)} questions of general knowledge", "no adapter", rights(host, None, known)),
        line_of(
            f"{len(KNOWN)} questions of general knowledge",
            "a sheet in the weights",
            rights(host, turned, known),
        ),
        line_of(ASIDE, "the sheet's value is said", rights(host, own, aside)),
        line_of(ASIDE, "the same, the sheet in the prompt, no adapter", rights(host, None, aside_told)),
        line_of("two sheets of one fact, joined", "the fact of one", rights(host, both, bare)),
    ]


def _sheets(comparison: SheetsComparison, facts: int, *, alike: bool = False) -> list[Task]:
    """Drawn for the measurement: other sheets than those that chose the network."""
    return [
        sheet_task(f"measured/{facts}/{number}", facts=facts, split="validation", alike=alike)
        for number in range(comparison.documents)
    ]


def _questions(host: Host, sheet: Task, *, told: bool = False) -> list[Encoded]:
    description = sheet.descriptions[0] if told else None
    return [render_raw(host.tokenizer, row, description=description) for row in sheet.test]


def _kind(sheet: Task) -> str:
    """The kind of the one fact of a sheet."""
    text = sheet.descriptions[0].split(" ", 1)[1]
    return next(name for name, kind in KINDS.items() if text.startswith(kind.verb))


def _turned(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Everybody has the next one's."""
    return [*adapters[1:], adapters[0]]
