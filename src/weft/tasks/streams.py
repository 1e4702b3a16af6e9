"""Streams: one prompt, and an answer in parts, each of another task.

A part begins with what leads to it (`lead`), then comes the place where a model may ask for another adapter,
then its text. Only `answer`, the end of the text, is marked.
"""

from collections.abc import Sequence
from typing import NamedTuple


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
