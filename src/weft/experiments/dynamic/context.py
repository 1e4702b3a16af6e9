"""What is left of a text that went into the weights: facts in documents of any length, and side effects.

Every number is a share of answers that greedy decoding gets right, on documents drawn for this. The context
networks differ in seed and are one sample each.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weft.config import Config, Size
from weft.engine import Loop, Sampling
from weft.experiments.dynamic.asked import share_equal, share_right
from weft.experiments.dynamic.table import Line, line_of
from weft.host import Host
from weft.hyper import ContextNetwork, WindowController
from weft.rows import Request
from weft.tasks import Encoded, Row, Task, render
from weft.tasks.facts.documents import document_task

_SINKS = 4
"""Tokens of the front that attention sinks keep."""


class ContextComparison(Config):
    """`context` in the recipe of `weft experiment dynamic`."""

    networks: dict[str, tuple[str, ...]]
    """Name of a way -> folders of its context networks, one per seed."""
    base: str
    """Embedded name, folder or hub id of the frozen base."""
    trained: Size = 64
    """Tokens of the longest document in training."""
    times: tuple[int, ...] = (1, 8, 32)
    """Lengths to measure, as multiples of that."""
    needles: tuple[int, ...] = (1, 4)
    """Facts hidden in a document."""
    documents: Size = 24
    """Per length and number of needles."""
    window: Size = 64
    """Tokens that the baselines and the window controller keep."""


@dataclass(frozen=True)
class Sheet:
    """A document, its questions, and what may be known of it."""

    task: Task
    ids: list[int]


def measure_context(recipe: ContextComparison, tell: Callable[[str], None]) -> list[Line]:
    """All lines of the section, each with one value per seed."""
    host = Host.from_pretrained(recipe.base, dtype="float32")
    lines = []
    for length in recipe.times:
        for needles in recipe.needles:
            sheets = _sheets(host, recipe, length, needles)
            tell(f"{needles} facts in {length * recipe.trained} tokens")
            what = f"{needles} of {needles} facts in {length}x"
            for name, view in _views(recipe.window).items():
                right = share_right(host, None, [_rows(host, sheet, view) for sheet in sheets])
                lines.append(line_of(what, name, [right]))
            for way, folders in recipe.networks.items():
                rights = []
                for folder in folders:
                    network = ContextNetwork.from_pretrained(folder, host=host)
                    adapters = [network.adapt_stream(sheet.ids) for sheet in sheets]
                    rights.append(share_right(host, adapters, [_rows(host, sheet, None) for sheet in sheets]))
                lines.append(line_of(what, f"weights alone, {way}", rights))
    for way, folders in recipe.networks.items():
        tell(f"side effects, {way}")
        found = [side_effects(ContextNetwork.from_pretrained(f, host=host), recipe) for f in folders]
        lines += [line_of(what, way, [one[what] for one in found]) for what in found[0]]
    return lines


def side_effects(network: ContextNetwork, recipe: ContextComparison) -> dict[str, float]:
    """What peers rarely report: strangers, contradictions, noise, updates, removal, and memory."""
    host = network.host
    here = _sheets(host, recipe, 1, 2, seed="here")
    other = _sheets(host, recipe, 1, 2, seed="other")
    at_hand = [_rows(host, sheet, _whole) for sheet in here]
    bare = [_rows(host, sheet, None) for sheet in here]
    mine = [network.adapt_stream(sheet.ids) for sheet in here]
    theirs = [network.adapt_stream(sheet.ids) for sheet in other]
    chance = random.Random(0)
    noise = [
        network.adapt_stream([3 + int(chance.random() * (host.vocab_size - 3)) for _ in range(64)])
        for _ in here
    ]
    changed, new = zip(*(_contradicted(sheet) for sheet in here), strict=True)
    updates = [network.adapt_stream(network.tokens(text)) for text in changed]
    both = [network.join([old, later]) for old, later in zip(mine, updates, strict=True)]
    three = [network.join([a, b, c]) for a, b, c in zip(mine, theirs, noise, strict=True)]
    before = [network.join([a, c]) for a, c in zip(mine, noise, strict=True)]
    again = [network.adapt_stream(sheet.ids) for sheet in here]  # by a network that has read the others
    never = [network.join([a, c]) for a, c in zip(again, noise, strict=True)]
    updated = [[render(host.tokenizer, row) for row in rows] for rows in new]
    told = [
        [render(host.tokenizer, row, description=sheet.task.descriptions[0]) for row in rows]
        for sheet, rows in zip(here, new, strict=True)
    ]
    return {
        "facts in the window, no adapter": share_right(host, None, at_hand),
        "facts in the window, another document in the weights": share_right(host, theirs, at_hand),
        "facts in the window, noise in the weights": share_right(host, noise, at_hand),
        "the window says one thing, the weights another: window": share_right(host, updates, at_hand),
        "the window says one thing, the weights another: weights": share_right(host, updates, told),
        "a fact in the weights, and a later one that replaces it: new": share_right(host, both, updated),
        "a fact in the weights, and a later one that replaces it: old": share_right(host, both, bare),
        "the old document taken out: new": share_right(host, updates, updated),
        "three documents in the weights": share_right(host, three, bare),
        "one of three taken out": share_right(host, before, bare),
        "logits that are equal bit for bit after it was in and out": share_equal(host, before, never, bare),
        "tokens held in the cache at most, 1x": float(_held(network, recipe, 1)),
        "tokens held in the cache at most, 32x": float(_held(network, recipe, 32)),
    }


View = Callable[[Sequence[int]], Sequence[int]]
"""The tokens of a document that are in the window when the question comes."""


def _whole(ids: Sequence[int]) -> Sequence[int]:
    return ids


def _views(window: int) -> dict[str, View]:
    return {
        f"window only, the last {window}": lambda ids: ids[-window:],
        f"attention sinks, the first {_SINKS} and the last": lambda ids: [
            *ids[: min(_SINKS, max(len(ids) - window, 0))],
            *ids[-(window - _SINKS) :],
        ],
        "full context": _whole,
    }


def _sheets(
    host: Host, recipe: ContextComparison, length: int, needles: int, *, seed: str = "needles"
) -> list[Sheet]:
    tokens = length * recipe.trained
    made = []
    for number in range(recipe.documents):
        key = f"{seed}/{length}/{needles}/{number}"
        # in long documents the facts lie before the last window, so that a window alone cannot know them
        first = max(tokens - recipe.window, 0) if length > 1 else 0
        task = document_task(key, pairs=needles, tokens=tokens, first=first, absent=0)
        ids = host.tokenizer.encode(task.descriptions[0], add_special_tokens=False)
        made.append(Sheet(task, ids))
    return made


def _rows(host: Host, sheet: Sheet, view: View | None) -> list[Encoded]:
    """The questions, behind what is in the window."""
    rows = [render(host.tokenizer, row) for row in sheet.task.test]
    if view is None:
        return rows
    line_break = host.tokenizer.encode("\n", add_special_tokens=False)
    seen = [*view(sheet.ids), *line_break]
    return [Encoded([*seen, *row.prompt_ids], row.completion_ids) for row in rows]


def _contradicted(sheet: Sheet) -> tuple[str, tuple[Row, ...]]:
    """A document that says other things of the same names, and its questions."""
    rows = sheet.task.test
    things = [row.completion for row in rows]
    new = tuple(Row(row.prompt, things[i - 1]) for i, row in enumerate(rows))
    return "".join(f"{row.prompt}{row.completion} ." for row in new), new


def _held(network: ContextNetwork, recipe: ContextComparison, length: int) -> int:
    """Most tokens that any cache held while a prompt of this length was read and a few tokens written."""
    sheet = _sheets(network.host, recipe, length, 1, seed="memory")[0]
    loop = Loop(network.host)
    controller = WindowController(network, window=recipe.window)
    loop.submit(Request("row", tuple(sheet.ids)), sampling=Sampling(max_new_tokens=8), controller=controller)
    most = 0
    while loop.busy:
        loop.step()
        most = max([most, *loop.held])
    return most
