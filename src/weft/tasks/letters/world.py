"""The letters world: hundreds of contradictory tasks over the same short strings, described in words.

A task is one operation, or a composition of two or three. From one seed follow: which compositions,
parameters and wordings are held out, every description, and every row. A held-out composition differs in
effect, not only in name, from every task that can be trained on.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, permutations

from weft.errors import ConfigError
from weft.files import nearest
from weft.tasks.letters.operation import ALPHABET, UNSEEN_PHRASES, VOWELS, Operation, Parameters
from weft.tasks.letters.operations import OPERATIONS
from weft.tasks.letters.phrases import MORE_PHRASES
from weft.tasks.manners import dress
from weft.tasks.task import Row, Task

Step = tuple[Operation, Parameters]

_NOUNS = ("the string", "the text", "the word", "the letters", "the input")
_JOINS = {
    2: (
        "{0}, then {1}",
        "first {0}, then {1}",
        "{0} and then {1}",
        "{0}; after that {1}",
        "{0}, and finally {1}",
    ),
    3: (
        "{0}, then {1}, then {2}",
        "first {0}, then {1}, and finally {2}",
        "{0}; after that {1}; then {2}",
        "{0}, then {1} and then {2}",
    ),
}
_UNSEEN_JOINS = {
    2: ("first {0} and after that {1}", "{0}, after that {1}"),
    3: ("first {0}, after that {1} and then {2}", "{0}; then {1}; and finally {2}"),
}
_HELD_OUT_PAIRS, _HELD_OUT_TRIPLES = 60, 30
_LONGEST = 14


@dataclass(frozen=True)
class World:
    """The tasks of one seed; `train` grows without end, the held-out tasks are fixed."""

    seed: int = 0
    train_rows: int = 64
    test_rows: int = 24
    wordings: int = 16
    """Descriptions written for a training task; a quarter as many again are kept unseen."""
    more_wordings: int = 0
    """Descriptions of a training task beside these, with the phrases of `MORE_PHRASES` as well."""
    mannered: int = 0
    """Further descriptions per task, in many people's manners: polite, curt, with other words."""

    def train(self, count: int) -> list[Task]:
        """The primitives and then compositions, in a fixed order: the first 600 of 1000 are those of 600.

        Raises ConfigError when the world has fewer compositions.
        """
        if count > _sequences():
            raise ConfigError(
                f"the letters world has fewer than {_sequences()} training tasks, {count} were asked for"
            )
        tasks = [self._task(steps) for steps in islice(self._training(), count)]
        if len(tasks) < count:
            raise ConfigError(f"the letters world has {len(tasks)} training tasks, {count} were asked for")
        return tasks

    def unseen_compositions(self) -> list[Task]:
        """Compositions of two and three known operations that no training task has the effect of.

        Where the order of the steps makes no difference, a training task may hold them in another order;
        such compositions are kept out of training like the others, but are not counted as unseen.
        """
        return [self._task(steps) for steps in self._held_out() if self._order_matters(steps)]

    def unseen_parameters(self) -> list[Task]:
        """Known operations with parameters that no training task has."""
        return [self._task(((o, p),)) for o in OPERATIONS.values() for p in o.unseen_parameters]

    def find(self, name: str) -> Task:
        """The task of a name like `reverse+first_two`. Raises ConfigError for an unknown operation."""
        return self._task(_steps(name))

    def solve(self, name: str, text: str) -> str | None:
        """What the task of a name makes of an input; None when nothing is left of it, or too much.

        Raises ConfigError for an unknown operation.
        """
        return _run(_steps(name), text)

    # ------------------------------------------------------------------ choosing compositions

    def _training(self) -> Iterator[tuple[Step, ...]]:
        held_out = {self._effect(steps) for steps in self._held_out()}
        primitives = [(step,) for step in _primitives()]
        yield from primitives
        taken = {self._effect(steps) for steps in primitives}
        rng = random.Random(f"{self.seed} training")
        for steps in _alternating(_compositions(2), _compositions(3), rng):
            effect = self._effect(steps)
            if effect is not None and effect not in taken and effect not in held_out:
                taken.add(effect)
                yield steps

    def _held_out(self) -> list[tuple[Step, ...]]:
        rng = random.Random(f"{self.seed} held out")
        taken = {self._effect((step,)) for step in _primitives()}
        chosen: list[tuple[Step, ...]] = []
        for size, count in ((2, _HELD_OUT_PAIRS), (3, _HELD_OUT_TRIPLES)):
            candidates = _compositions(size)
            wanted = len(chosen) + count
            while len(chosen) < wanted:
                steps = rng.choice(candidates)
                effect = self._effect(steps)
                if effect is not None and effect not in taken:
                    taken.add(effect)
                    chosen.append(steps)
        return chosen

    def _order_matters(self, steps: tuple[Step, ...]) -> bool:
        return all(
            self._effect(other, like=steps) != self._effect(steps)
            for other in permutations(steps)
            if other != steps and not any(operation.last for operation, _ in other[:-1])
        )

    def _effect(
        self, steps: tuple[Step, ...], *, like: tuple[Step, ...] | None = None
    ) -> tuple[str, ...] | None:
        """What the steps do to fixed inputs; None when they do too little to be a task.

        Too little: they often empty their input, or leave out a step and the effect stays the same. The
        inputs hold the letters that the steps act on, or those that `like` acts on.
        """
        kind = steps[0][0].kind
        letters = _letters_acted_on(like or steps)
        inputs = _probes(self.seed, kind, letters)
        outputs = [_run(steps, text) for text in inputs]
        if sum(output is None for output in outputs) > 6 or outputs == inputs:
            return None
        for i in range(len(steps)):
            shorter = steps[:i] + steps[i + 1 :]
            if shorter and [_run(shorter, text) for text in inputs] == outputs:
                return None
        return (kind, letters, *(output or "" for output in outputs))

    # ------------------------------------------------------------------ writing a task out

    def _task(self, steps: tuple[Step, ...]) -> Task:
        name = "+".join(_step_name(o, p) for o, p in steps)
        rng = random.Random(f"{self.seed} task {name}")
        rows = self._rows(steps, rng)
        known = _distinct(rng, steps, self.wordings, _known)
        unseen = _distinct(rng, steps, self.wordings // 4, _unseen)
        # From a generator of their own, so that everything else is the same with them and without.
        more = _distinct(random.Random(f"{self.seed} more {name}"), steps, self.more_wordings, _more)
        told = dict.fromkeys((*known, *more))
        chance = random.Random(f"{self.seed} manners {name}")
        for _ in range(self.mannered):
            told.setdefault(dress(_describe(chance, steps, _more), chance))
        return Task(
            name=name,
            descriptions=tuple(text for text in told if text not in unseen),
            unseen_descriptions=unseen,
            train=tuple(rows[self.test_rows :]),
            test=tuple(rows[: self.test_rows]),
            category=("primitive", "pair", "triple")[len(steps) - 1],
        )

    def _rows(self, steps: tuple[Step, ...], rng: random.Random) -> list[Row]:
        kind = steps[0][0].kind
        letters = _letters_acted_on(steps)
        rows: dict[str, str] = {}
        for _ in range(50 * (self.test_rows + self.train_rows)):
            text = _input(rng, kind, letters)
            output = _run(steps, text)
            if output is not None and output != text:
                rows[text] = output
            if len(rows) == self.test_rows + self.train_rows:
                break
        return [Row(prompt=text, completion=output) for text, output in rows.items()]


def _steps(name: str) -> tuple[Step, ...]:
    known = _known_steps()
    for step in name.split("+"):
        if step not in known:
            raise ConfigError(f"the letters world has no operation {step!r}{nearest(step, known)}")
    return tuple(known[step] for step in name.split("+"))


def _step_name(operation: Operation, parameters: Parameters) -> str:
    marks = {"*": "star", "#": "hash", "-": "dash", "+": "plus"}
    return "_".join([operation.name, *(marks.get(v, v) for v in parameters.values())])


@cache
def _known_steps() -> dict[str, Step]:
    return {_step_name(o, p): (o, p) for o in OPERATIONS.values() for p in o.parameters + o.unseen_parameters}


@cache
def _primitives() -> tuple[Step, ...]:
    return tuple((o, p) for o in OPERATIONS.values() for p in o.parameters)


@cache
def _compositions(size: int) -> tuple[tuple[Step, ...], ...]:
    """Every sequence of `size` different operations of one kind, all but the last one open to others."""
    partial: list[tuple[Step, ...]] = [()]
    for position in range(size):
        partial = [
            (*steps, step)
            for steps in partial
            for step in _primitives()
            if (position == size - 1 or not step[0].last)
            and all(step[0].kind == o.kind and step[0].name != o.name for o, _ in steps)
        ]
    return tuple(partial)


@cache
def _sequences() -> int:
    """How many tasks there would be if every sequence of steps were one."""
    return sum(len(_compositions(size)) for size in (1, 2, 3))


def _alternating(
    pairs: Sequence[tuple[Step, ...]], triples: Sequence[tuple[Step, ...]], rng: random.Random
) -> Iterator[tuple[Step, ...]]:
    """Two pairs, then a triple, in random order; triples alone when the pairs are used up."""
    pairs, triples = list(pairs), list(triples)
    rng.shuffle(pairs)
    for i, pair in enumerate(pairs):
        triple = rng.choice(triples)
        yield from (pair, triple) if i % 2 else (pair,)
    rng.shuffle(triples)
    yield from triples


@cache
def _probes(seed: int, kind: str, letters: str) -> list[str]:
    rng = random.Random(f"{seed} probes {kind}")
    return [_input(rng, kind, letters) for _ in range(24)]


def _run(steps: Sequence[Step], text: str) -> str | None:
    for operation, parameters in steps:
        if not text:
            return None
        text = operation.apply(text, parameters)
    return text if 0 < len(text) <= _LONGEST else None


def _letters_acted_on(steps: Sequence[Step]) -> str:
    return "".join(p["x"] for o, p in steps if o.name in ("replace", "remove"))


def _input(rng: random.Random, kind: str, letters: str) -> str:
    if kind == "list":
        return ",".join(str(rng.randrange(10)) for _ in range(rng.randint(3, 5)))
    length = rng.randint(3, 6)
    text = [rng.choice(VOWELS) if rng.random() < 0.4 else rng.choice(ALPHABET) for _ in range(length)]
    if rng.random() < 0.4:
        text[rng.randrange(length)] = rng.choice(text)
    for letter in letters[:2]:
        if letter not in text:
            text[rng.randrange(length)] = letter
    return "".join(text)


def _known(operation: Operation) -> tuple[str, ...]:
    return operation.phrases[:-UNSEEN_PHRASES]


def _more(operation: Operation) -> tuple[str, ...]:
    return (*_known(operation), *MORE_PHRASES[operation.name])


def _unseen(operation: Operation) -> tuple[str, ...]:
    return operation.phrases[-UNSEEN_PHRASES:]


Phrases = Callable[[Operation], tuple[str, ...]]


def _distinct(
    rng: random.Random, steps: tuple[Step, ...], count: int, phrases_of: Phrases
) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for _ in range(20 * count):
        found[_describe(rng, steps, phrases_of)] = None
        if len(found) == count:
            break
    return tuple(found)


def _describe(rng: random.Random, steps: tuple[Step, ...], phrases_of: Phrases) -> str:
    parts = []
    for i, (operation, parameters) in enumerate(steps):
        phrases = phrases_of(operation)
        noun = rng.choice(_NOUNS) if i == 0 else rng.choice((*_NOUNS, "it", "the result"))
        text = rng.choice(phrases).format(s=noun, **parameters)
        parts.append(text.replace(" one letters", " letter").replace(" one characters", " character"))
    if len(parts) == 1:
        return parts[0]
    joins = _UNSEEN_JOINS if phrases_of is _unseen and rng.random() < 0.5 else _JOINS
    return rng.choice(joins[len(parts)]).format(*parts)
