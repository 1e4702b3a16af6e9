"""The functions world: a function is one kind with its parameters, or a composition of two.

A task's category is the shape of its input, or `pair` for a composition.

From one seed follow: which kinds, compositions, parameters and wordings are held out, every description and
every row. Many functions read the same inputs and answer differently, so only the description tells which
one is meant.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

from weft.errors import ConfigError
from weft.files import nearest
from weft.tasks.functions.inputs import SHAPES
from weft.tasks.functions.kind import Kind, Parameters
from weft.tasks.functions.kinds_fields import FIELD_KINDS
from weft.tasks.functions.kinds_texts import TEXT_KINDS
from weft.tasks.functions.wordings import describe, mannered
from weft.tasks.task import Row, Task

KINDS: dict[str, Kind] = {kind.name: kind for kind in FIELD_KINDS + TEXT_KINDS}
Step = tuple[Kind, Parameters]

_UNSEEN_KINDS, _UNSEEN_COMPOSITIONS = 14, 60
_LONGEST = 96
"""Characters of an input or an answer; with 3 or 4 to a token, rows stay below 64 tokens."""


@dataclass(frozen=True)
class World:
    """The functions of one seed; `train` grows to some thousands, the held-out ones are fixed."""

    seed: int = 0
    train_rows: int = 40
    test_rows: int = 12
    wordings: int = 16
    """Descriptions written for a training function; a quarter as many again are kept unseen."""
    mannered: int = 0
    """Further descriptions per function, in many people's manners."""
    more_rows: int = 0
    """Further training rows per function, as many as its inputs allow."""

    def train(self, count: int) -> list[Task]:
        """Single functions and then compositions, in a fixed order: the first 600 of 1000 are those of 600.

        Raises ConfigError when the world has fewer.
        """
        chosen = list(islice(self._training(), count))
        if len(chosen) < count:
            raise ConfigError(
                f"the functions world has {len(chosen)} training functions, {count} were asked for"
            )
        return [self._task(steps) for steps in chosen]

    def unseen_kinds(self) -> list[Task]:
        """Functions of kinds that no training function has, alone or in a composition."""
        return [self._task(((kind, kind.parameters[0]),)) for kind in self._unseen()]

    def unseen_parameters(self) -> list[Task]:
        """Known kinds with parameters that no training function has."""
        return [self._task(((k, p),)) for k in self._known() for p in k.unseen_parameters]

    def unseen_compositions(self) -> list[Task]:
        """Compositions of two known functions that no training function has the effect of."""
        return [self._task(steps) for steps in self._held_out()]

    def find(self, name: str) -> Task:
        """The task of a name like `field_second+upper`. Raises ConfigError for an unknown function."""
        return self._task(self._steps_of(name))

    def shape(self, name: str) -> str:
        """What the function of a name reads, a key of `SHAPES`. Raises ConfigError for an unknown one."""
        return self._steps_of(name)[0][0].reads

    def answer(self, name: str, text: str) -> str | None:
        """What the function of a name makes of a text; None where that is nothing.

        Raises ConfigError for an unknown function.
        """
        return _run(self._steps_of(name), text)

    def _steps_of(self, name: str) -> tuple[Step, ...]:
        for part in name.split("+"):
            if part not in _steps():
                raise ConfigError(f"the functions world has no function {part!r}{nearest(part, _steps())}")
        return tuple(_steps()[part] for part in name.split("+"))

    # ------------------------------------------------------------------ choosing functions

    def _unseen(self) -> list[Kind]:
        names = random.Random(f"{self.seed} kinds").sample(sorted(KINDS), _UNSEEN_KINDS)
        return [KINDS[name] for name in names]

    def _known(self) -> list[Kind]:
        unseen = {kind.name for kind in self._unseen()}
        return [kind for kind in KINDS.values() if kind.name not in unseen]

    def _training(self) -> Iterator[tuple[Step, ...]]:
        singles = [((kind, p),) for kind in self._known() for p in kind.parameters]
        # Kinds by turns, so that a short list has most of the kinds and few parameters of each.
        singles.sort(key=lambda steps: steps[0][0].parameters.index(steps[0][1]))
        yield from singles
        taken = {self._effect(steps) for steps in (*singles, *self._held_out())}
        for steps in self._compositions("training"):
            effect = self._effect(steps)
            if effect is not None and effect not in taken:
                taken.add(effect)
                yield steps

    def _held_out(self) -> list[tuple[Step, ...]]:
        taken = {self._effect(((kind, p),)) for kind in self._known() for p in kind.parameters}
        chosen: list[tuple[Step, ...]] = []
        for steps in self._compositions("held out"):
            effect = self._effect(steps)
            if effect is not None and effect not in taken:
                taken.add(effect)
                chosen.append(steps)
            if len(chosen) == _UNSEEN_COMPOSITIONS:
                break
        return chosen

    def _compositions(self, purpose: str) -> list[tuple[Step, ...]]:
        """Every pair of different known kinds of which the second can read what the first gives."""
        steps = [(kind, p) for kind in self._known() for p in kind.parameters if kind.name != "table"]
        pairs = [
            (first, second)
            for first in steps
            for second in steps
            if first[0].gives
            and first[0].name != second[0].name
            and second[0].reads in (first[0].gives, "any")
            # Two functions of any text in a row are the dullest and would be half of all.
            and (first[0].reads != "any" or len(first[0].parameters) > 1)
        ]
        random.Random(f"{self.seed} {purpose}").shuffle(pairs)
        return pairs

    def _effect(self, steps: tuple[Step, ...]) -> tuple[str | None, ...] | None:
        """What the steps make of fixed inputs; None when that is too little to be a function of its own."""
        reads = steps[0][0].reads
        outputs = tuple(_run(steps, text) for text in _probes(reads))
        if len(steps) > 1:
            readers = [step for step in steps if step[0].reads in (reads, "any")]
            alone = [_alone(_step_name(*step), reads) for step in readers]
            if outputs.count(None) > 8 or len(set(outputs)) < 4 or outputs in alone:
                return None
        return (reads, *outputs)

    # ------------------------------------------------------------------ writing a task out

    def _task(self, steps: tuple[Step, ...]) -> Task:
        name = "+".join(_step_name(kind, parameters) for kind, parameters in steps)
        rng = random.Random(f"{self.seed} task {name}")
        rows = _rows(steps, rng, self.test_rows + self.train_rows)
        known, unseen = describe(steps, rng, self.wordings, (rows[-1].prompt, rows[-1].completion))
        # From generators of their own, so that everything else is the same with them and without.
        chance = random.Random(f"{self.seed} manners {name}")
        more = dict.fromkeys(mannered(steps, chance) for _ in range(self.mannered))
        known = (*known, *(text for text in more if text not in (*known, *unseen)))
        rows += _rows(steps, random.Random(f"{self.seed} more rows {name}"), self.more_rows, besides=rows)
        return Task(
            name=name,
            descriptions=known,
            unseen_descriptions=unseen,
            train=tuple(rows[self.test_rows :]),
            test=tuple(rows[: self.test_rows]),
            category=steps[0][0].reads if len(steps) == 1 else "pair",
        )


def _rows(steps: Sequence[Step], rng: random.Random, wanted: int, besides: Sequence[Row] = ()) -> list[Row]:
    """So many rows at most, of inputs that differ from each other's and from those besides."""
    known = {row.prompt for row in besides}
    rows: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for _ in range(60 * wanted):
        text = SHAPES[steps[0][0].reads](rng)
        output = _run(steps, text)
        if output is None or text in rows or text in known:
            continue
        # One answer that stood for most rows would be learned in place of the function.
        if counts[output] > 2 and counts[output] > 0.55 * len(rows):
            continue
        rows[text] = output
        counts[output] += 1
        if len(rows) == wanted:
            break
    return [Row(prompt=text, completion=output) for text, output in rows.items()]


def _run(steps: Sequence[Step], text: str) -> str | None:
    for kind, parameters in steps:
        made = kind.apply(text, parameters)
        if not made:
            return None
        text = made
    return text if len(text) <= _LONGEST else None


@cache
def _probes(reads: str) -> tuple[str, ...]:
    return tuple(SHAPES[reads](random.Random(f"probe {reads} {i}")) for i in range(12))


@cache
def _alone(name: str, reads: str) -> tuple[str | None, ...]:
    """What one step makes of the probes of a shape."""
    return tuple(_run((_steps()[name],), text) for text in _probes(reads))


def _step_name(kind: Kind, parameters: Parameters) -> str:
    place = (*kind.parameters, *kind.unseen_parameters).index(parameters)
    return kind.name if parameters == {} else f"{kind.name}_{place + 1}"


@cache
def _steps() -> dict[str, Step]:
    return {_step_name(k, p): (k, p) for k in KINDS.values() for p in (*k.parameters, *k.unseen_parameters)}
