"""Streams: one prompt, and an answer in parts, each of another task.

A part begins with what leads to it (`lead`), then comes the place where a model may ask for another adapter,
then its text. Only `answer`, the end of the text, is marked.
"""

import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

Pair = tuple[str, str]
"""A task and the one that follows it."""


class Part(NamedTuple):
    """One sub-task of a stream."""

    task: str
    lead: str
    text: str
    """What is written for it, the answer and what closes it included."""
    prompt: str
    """The sub-task alone, as a model is asked it outside a stream."""
    answer: str


class Stream(NamedTuple):
    """A prompt and the parts of its answer."""

    prompt: str
    parts: tuple[Part, ...]
    following: str = ""
    """The lead of the part that would come next, where the answer is cut; empty where it ends."""

    @property
    def shifts(self) -> tuple[bool, ...]:
        """Whether a part is of another task than the one before it; the first is."""
        return tuple(i == 0 or self.parts[i - 1].task != part.task for i, part in enumerate(self.parts))


def answers_of(text: str, parts: Sequence[Part]) -> list[str]:
    """What a text answers to every part: the line after its lead and input; empty where it has none."""
    lines = text.split("\n")
    found = []
    for i, part in enumerate(parts):
        start = part.lead + part.text[: part.text.rindex(part.answer)].rstrip("\n")
        line = lines[i] if i < len(lines) else ""
        found.append(line[len(start) :].strip() if line.startswith(start) else "")
    return found


def held_out_pairs(tasks: Sequence[str], share: float, seed: int) -> set[Pair]:
    """Ordered pairs of different tasks that no training stream has: as many after each task, and not all."""
    rng = random.Random(f"{seed} pairs")
    count = min(max(1, round(share * (len(tasks) - 1))), len(tasks) - 2)
    return {(a, b) for a in tasks for b in rng.sample([t for t in tasks if t != a], count)}


def next_task(
    rng: random.Random,
    tasks: Sequence[str],
    before: str | None,
    *,
    again: float,
    pairs: AbstractSet[Pair],
    held_out: bool,
) -> str:
    """The task of a stream's next line: that of the line before it in `again` of all cases.

    Else another, such that the two are one of `pairs`, or none of them, as `held_out` says.
    """
    if before is not None and rng.random() < again:
        return before
    return rng.choice(
        [t for t in tasks if t != before and (before is None or ((before, t) in pairs) == held_out)]
    )
