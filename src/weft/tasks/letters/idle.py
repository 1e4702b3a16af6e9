"""Lines of a document that answer no question: what a network that presses texts should not keep.

    strings       kdoq                      numbers    41 7 200
    rows          cab >bac                  names      K cab
    descriptions   turn the word around     prose      the old wind crossed the long road .
    near          k >cab, Kcab, KL >cab
    noise         t%4 Q-

Those on the left are what trainings see; the others a network has never met.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

from weft.tasks.facts.documents import idle_sentence
from weft.tasks.letters.operation import ALPHABET
from weft.tasks.letters.world import World
from weft.tasks.task import Task

IdleKind = Literal["strings", "rows", "descriptions", "near", "noise", "numbers", "names", "prose"]
TRAINED: Sequence[IdleKind] = ("strings", "rows", "descriptions", "near", "noise")
STRANGE: Sequence[IdleKind] = tuple(kind for kind in get_args(IdleKind) if kind not in TRAINED)
"""Kinds that no training has."""
_TASKS = 64
_PRINTABLE = "".join(chr(code) for code in range(33, 127)) + "    "


def idle_line(rng: random.Random, kind: IdleKind) -> str:
    """One line of a kind, with its end."""
    if kind == "strings":
        line = _letters(rng, rng.randint(3, 7))
    elif kind == "rows":
        row = rng.choice(rng.choice(_tasks()).train)
        line = f"{row.prompt} >{row.completion}"
    elif kind == "descriptions":
        line = f" {rng.choice(rng.choice(_tasks()).descriptions)}"
    elif kind == "near":
        line = _near(rng)
    elif kind == "noise":
        line = "".join(rng.choice(_PRINTABLE) for _ in range(rng.randint(3, 10)))
    elif kind == "numbers":
        line = " ".join(str(rng.randint(0, 999)) for _ in range(rng.randint(2, 4)))
    elif kind == "names":
        line = f"{_letters(rng, 1).upper()} {_letters(rng, rng.randint(3, 4))}"
    else:
        line = idle_sentence(rng)
    return line + "\n"


def _near(rng: random.Random) -> str:
    """A fact with one thing wrong: its name small, its sign or its name missing, or two names."""
    name, word = _letters(rng, 1).upper(), _letters(rng, rng.randint(3, 4))
    other = _letters(rng, 1).upper()
    return rng.choice((f"{name.lower()} >{word}", f"{name}{word}", f" >{word}", f"{name}{other} >{word}"))


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(count))


@cache
def _tasks() -> tuple[Task, ...]:
    return tuple(World().train(_TASKS))
