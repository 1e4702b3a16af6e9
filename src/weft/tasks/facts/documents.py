"""Documents of invented facts among sentences that say nothing, and the questions that they answer.

    the old wind crossed the long road . ada amber . nora knows ada .

A question is a name, and the answer what it has; " friend nora" asks what the one has whom nora knows, which
takes two facts. Whoever is not in the document has " none". " say ada" asks for the word itself: a base that
never has to say names does not tell them apart. Facts are drawn anew for every document, so no network can
know them by heart: what is answered right was read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from weft.errors import ConfigError
from weft.tasks.facts.words import ADJECTIVES, NAMES, SUBJECTS, THINGS, VERBS
from weft.tasks.task import Row, Task

NOTHING = "none"
"""The answer to a question about somebody who is not in the document."""
VOCABULARY = " ".join([*NAMES, *THINGS, *SUBJECTS, *VERBS, *ADJECTIVES, f"the knows friend say {NOTHING} ."])
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] + '\n' }}"
    "{% elif m['role'] == 'user' %}{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endif %}{% endfor %}"
)
"""A question goes on like a fact: the name, then what it has."""
_FACT = 3
"""Tokens of a fact; one that somebody knows somebody has one more."""
_FILLER = 8
"""Tokens of a sentence that says nothing."""


@dataclass(frozen=True)
class Sheet:
    """The facts of one document."""

    has: dict[str, str]
    """Name -> thing."""
    knows: dict[str, str]
    """Name -> a name that has something."""


def draw_sheet(chance: random.Random, *, pairs: int, links: int = 0) -> Sheet:
    """Facts about `pairs` names, and about `links` others who know one of them.

    Raises ConfigError for more names than there are.
    """
    if not 0 < pairs + links <= len(NAMES) or pairs < 1:
        raise ConfigError(f"a document is about 1 to {len(NAMES)} names, got {pairs} and {links} links")
    names = _some(chance, NAMES, pairs + links)
    has = dict(zip(names[:pairs], _some(chance, THINGS, pairs), strict=True))
    return Sheet(has, {name: _some(chance, names[:pairs], 1)[0] for name in names[pairs:]})


def write_document(chance: random.Random, sheet: Sheet, *, tokens: int, first: int = 0) -> str:
    """Facts in any order, at places drawn among so many idle sentences that about `tokens` are reached.

    The facts lie among the first `first` tokens where that is above 0.
    """
    facts = [f"{name} {thing} ." for name, thing in sheet.has.items()]
    facts += [f"{name} knows {friend} ." for name, friend in sheet.knows.items()]
    idle = max(tokens - _FACT * len(facts), 0) // _FILLER
    early = idle if not first else min(idle, max(first - _FACT * len(facts), 0) // _FILLER)
    places = _some(chance, range(early + len(facts)), len(facts))
    lines = [idle_sentence(chance) for _ in range(early)]
    for place, fact in sorted(zip(places, facts, strict=True)):
        lines.insert(place, fact)
    lines += [idle_sentence(chance) for _ in range(idle - early)]
    return "".join(f" {line}" for line in lines)  # a word after a space is one token


def questions(chance: random.Random, sheet: Sheet, *, absent: int = 1, said: int = 0) -> tuple[Row, ...]:
    """One question per fact, `absent` about names that are not there, `said` that ask to say a word."""
    known = [*sheet.has, *sheet.knows]
    rows = [Row(f" {name}", f" {thing}") for name, thing in sheet.has.items()]
    rows += [Row(f" friend {name}", f" {sheet.has[friend]}") for name, friend in sheet.knows.items()]
    others = _some(chance, [name for name in NAMES if name not in known], absent)
    again = [Row(f" say {word}", f" {word}") for word in _some(chance, NAMES + THINGS, said)]
    return tuple(rows + [Row(f" {name}", f" {NOTHING}") for name in others] + again)


def document_task(
    seed: str, *, pairs: int, links: int = 0, tokens: int = 0, first: int = 0, absent: int = 1, said: int = 0
) -> Task:
    """One document as a task: its text is the description, its questions are the rows."""
    chance = random.Random(seed)
    sheet = draw_sheet(chance, pairs=pairs, links=links)
    text = write_document(chance, sheet, tokens=tokens, first=first)
    rows = questions(chance, sheet, absent=absent, said=said)
    name = "facts-" + seed.replace("/", "-")
    return Task(name, (text,), train=rows, test=rows, category=category(pairs, links))


def category(pairs: int, links: int = 0) -> str:
    """What documents of so many facts are called."""
    return f"pairs-{pairs}" + (f"-links-{links}" if links else "")


def idle_sentence(chance: random.Random) -> str:
    """A sentence that says nothing of anybody."""
    adjectives, subjects = _some(chance, ADJECTIVES, 2), _some(chance, SUBJECTS, 2)
    verb = _some(chance, VERBS, 1)[0]
    return f"the {adjectives[0]} {subjects[0]} {verb} the {adjectives[1]} {subjects[1]} ."


def _some(chance: random.Random, items: Sequence, count: int) -> list:
    # Through random() alone, which Python promises for a given seed in every version.
    order = sorted((chance.random(), i) for i in range(len(items)))
    return [items[i] for _, i in order[:count]]
