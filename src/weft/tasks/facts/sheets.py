"""Fact sheets in plain English: invented people, what is so of them, and questions that only these answer.

    sheet      Tarvik sells wooden boats.
    question   What does Tarvik sell? Tarvik sells          goes on   wooden boats.

A question begins its own answer, so that a base which only goes on with texts says it at once. Names are made
of syllables and values drawn anew for every sheet, so no network knows them by heart. A name of the
validation is never in training, nor a value with its kind.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Container, Sequence
from typing import Literal, NamedTuple

from weft.errors import ConfigError
from weft.tasks.facts.values import VALUES
from weft.tasks.task import Row, Task

Split = Literal["train", "validation"]
_HELD_OUT = 5
"""One name, and one value of a kind, in so many is never in training."""


class Kind(NamedTuple):
    """What may be so of somebody."""

    verb: str
    """Stands between the name and the value, in the sheet and in the answer."""
    question: str
    """With {name}."""
    values: str
    """The list that values are drawn from; two of them stand side by side, joined by `+`."""


KINDS: dict[str, Kind] = {
    "city": Kind("lives in", "Where does {name} live?", "cities"),
    "country": Kind("was born in", "Where was {name} born?", "countries"),
    "job": Kind("works as a", "What is the job of {name}?", "jobs"),
    "language": Kind("speaks", "Which language does {name} speak?", "languages"),
    "subject": Kind("studies", "What does {name} study?", "subjects"),
    "pet": Kind("has a pet", "Which pet does {name} have?", "animals"),
    "food": Kind("likes to eat", "What does {name} like to eat?", "foods"),
    "goods": Kind("sells", "What does {name} sell?", "things"),
    "fear": Kind("is afraid of", "What is {name} afraid of?", "things"),
    "lost": Kind("lost a", "What did {name} lose?", "looks+object"),
}
_CONSONANTS = ["b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"]
_VOWELS = ["a", "e", "i", "o", "u"]
_ENDS = ["", *["l", "m", "n", "r", "s", "x"]]


def draw_name(chance: random.Random, split: Split) -> str:
    """A name of two syllables that this split alone has."""
    while True:
        parts = [_pick(chance, letters) for letters in (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _ENDS)]
        name = "".join(parts).capitalize()
        if (zlib.crc32(name.encode()) % _HELD_OUT == 0) == (split == "validation"):
            return name


def draw_value(chance: random.Random, kind: Kind, split: Split) -> str:
    """One word or two that this split alone has for this kind."""
    return " ".join(_pick(chance, _of_split(part, split)) for part in kind.values.split("+"))


def sheet_task(
    key: str, *, facts: int, split: Split, kinds: Sequence[str] = tuple(KINDS), alike: bool = False
) -> Task:
    """One sheet as a task: its text is the description, its questions are the rows, one per fact.

    Every fact is about somebody of its own, `alike` ones are all of one kind: only the name tells them apart.
    For each the same is asked of somebody else too, unanswered. Raises ConfigError for no facts, an
    unknown kind, or more alike ones than there are values.
    """
    if facts < 1:
        raise ConfigError(f"a sheet has one fact or more, got {facts}")
    if strange := [name for name in kinds if name not in KINDS]:
        raise ConfigError(f"no kind of fact {strange[0]!r}; there are {', '.join(KINDS)}")
    chance = random.Random(f"{key}/{split}")
    people: dict[str, tuple[Kind, str]] = {}
    only = [_pick(chance, kinds)] if alike else kinds
    if alike and facts > (count := _count_values(KINDS[only[0]], split)):
        raise ConfigError(f"{facts} facts of the kind {only[0]} have {count} values; take fewer")
    while len(people) < facts:
        kind = KINDS[_pick(chance, only)]
        fact = (kind, draw_value(chance, kind, split))
        if not (alike and fact in people.values()):
            people[draw_name(chance, split)] = fact
    text = " ".join(f"{name} {kind.verb} {value}." for name, (kind, value) in people.items())
    rows = tuple(_ask(name, *fact) for name, fact in people.items())
    others = tuple(_ask(_draw_other(chance, people, split), *fact) for fact in people.values())
    ending = "-alike" if alike else ""
    name = f"sheet-{key.replace('/', '-')}{ending}-{split}"
    category = f"facts-{facts}{ending}"
    return Task(name, (text,), train=rows, test=rows, category=category, unanswered=others)


def _ask(name: str, kind: Kind, value: str) -> Row:
    return Row(f"{kind.question.format(name=name)} {name} {kind.verb}", f" {value}.")


def _draw_other(chance: random.Random, people: Container[str], split: Split) -> str:
    while (name := draw_name(chance, split)) in people:
        pass
    return name


def _count_values(kind: Kind, split: Split) -> int:
    return math.prod(len(_of_split(part, split)) for part in kind.values.split("+"))


def _of_split(part: str, split: Split) -> list[str]:
    held = split == "validation"
    return [value for place, value in enumerate(VALUES[part]) if (place % _HELD_OUT == 2) == held]


def _pick(chance: random.Random, items: Sequence[str]) -> str:
    # Through random() alone, which Python promises for a given seed in every version.
    return items[int(chance.random() * len(items))]
