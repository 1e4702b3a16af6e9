"""Documents of letters: words behind names, and questions that ask for one, as it is or changed.

    document  A >cab        question  B >doe        with an operation  +B >doe >eod        -B >doe >ddooee
              B >doe

`+` asks for what one adapter does and `-` for what another does: which operations those are, the question
does not say. No letter stands twice in the words of a document, so what follows a letter is one thing. Beside
its words a document may hold idle lines, of which no question asks (idle.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from weft.errors import ConfigError
from weft.tasks.letters.idle import TRAINED, IdleKind, idle_line
from weft.tasks.letters.operation import ALPHABET
from weft.tasks.letters.world import World
from weft.tasks.recall import SIGNS, Recall
from weft.tasks.task import Row, Task

NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST = 6
"""Words of a document: they use up the alphabet."""


def document_task(
    key: str, *, words: int, idle: int = 0, after: int = 0, kinds: Sequence[IdleKind] = TRAINED
) -> Task:
    """One document as a task, its text the description; a row per word, and nothing done to it.

    The words stand at places drawn among `idle` other lines, and `after` lines follow them all. Raises
    ConfigError for too many words.
    """
    rng = random.Random(key)
    words_of = _words(rng, words)
    rows = tuple(Row(name, word) for name, word in words_of.items())
    lines = _text(words_of).splitlines(keepends=True)
    for place in sorted(rng.sample(range(words + idle), idle)) if idle else ():
        lines.insert(place, idle_line(rng, rng.choice(kinds)))
    lines += [idle_line(rng, rng.choice(kinds)) for _ in range(after)]
    name = f"words-{key.replace('/', '-')}"
    category = f"words-{words}" + ("-after" if after else "-idle" if idle else "")
    return Task(name, ("".join(lines),), train=rows, test=rows, category=category)


def draw_recall(rng: random.Random, operations: Sequence[str], *, words: int = 1) -> Recall:
    """A question to a document of `words` words, with two of the operations. Raises ConfigError for fewer."""
    if len(set(operations)) < 2:
        raise ConfigError(f"a recall takes two different operations or more, got {list(operations)}")
    world = World()
    while True:
        words_of = _words(rng, words)
        first, second = rng.sample(list(operations), 2)
        place = rng.randrange(2)
        name = rng.choice(list(words_of))
        word = words_of[name]
        answers = [world.solve(task, word) for task in (first, second)]
        if None not in answers and len({word, *answers}) == 3:
            answer = answers[place] or ""
            prompt = f"{SIGNS[place]}{name} >"
            said = f"{word} >"
            return Recall(_text(words_of), SIGNS[place], (first, second), prompt, word, said, answer)


def _words(rng: random.Random, count: int) -> dict[str, str]:
    if not 1 <= count <= MOST:
        raise ConfigError(f"a document of letters has 1 to {MOST} words, got {count}")
    letters = list(ALPHABET)
    rng.shuffle(letters)
    found = {}
    for name in rng.sample(NAMES, count):
        size = rng.choice((3, 4))
        found[name] = "".join(letters[:size])
        del letters[:size]
    return found


def _text(words_of: dict[str, str]) -> str:
    return "".join(f"{name} >{word}\n" for name, word in words_of.items())
