"""Streams of functions: numbered inputs, worked off line by line; no line names its function.

    3: rosa.wood@post.de        3: rosa.wood@post.de > post.de
    4: 2012-06-25          ->   4: 2012-06-25 > 25 June 2012
    Answers:

What an input looks like tells which function is meant: a mail address, a date, a list. The place to ask for
another adapter is behind the number, before the input is written again. As with letters, some ordered pairs
of functions are held out, and an answer of training may be cut: it stops where the next line begins, so the
number of parts says nothing of the end. Inputs are held out too: those of test streams are in no training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from weft.errors import ConfigError
from weft.tasks.functions.inputs import SHAPES
from weft.tasks.functions.world import World
from weft.tasks.streams import Part, Stream, held_out_pairs, next_task
from weft.tasks.task import Row, Task

MOST = 9
"""Lines of a stream: their numbers are single digits."""
_TRIES = 2000


@dataclass(frozen=True)
class FunctionStreams:
    """Streams over functions of the functions world.

    Raises ConfigError for fewer than 3 functions, an unknown one, or two that read inputs of one shape.
    """

    tasks: tuple[str, ...]
    seed: int = 0
    held_out: float = 0.25
    """Share of the ordered pairs of different functions that no training stream has."""
    again: float = 0.2
    """How often a line has the function of the line before it."""
    lines: int = MOST
    """Most lines of a training prompt whose answer is cut; other prompts have a line for each part."""
    cut: float = 0.0
    """How often a training answer is cut, where `lines` leaves room for more lines than it has parts."""

    def __post_init__(self) -> None:
        """Check the functions."""
        if len(self.tasks) < 3:
            raise ConfigError(f"streams take 3 functions or more, got {len(self.tasks)}")
        shapes = [World().shape(task) for task in self.tasks]
        for i, (task, shape) in enumerate(zip(self.tasks, shapes, strict=True)):
            if shape in shapes[:i]:
                other = self.tasks[shapes.index(shape)]
                raise ConfigError(f"{other} and {task} both read {shape}, so no input says which is meant")

    def train(self, draw: int, count: int, lengths: Sequence[int]) -> list[Stream]:
        """`count` streams of a draw, with as many parts; equal draws are equal."""
        rng = random.Random(f"{self.seed} train {draw}")
        length = rng.choice(lengths)
        most = min(self.lines, MOST)
        streams = []
        for _ in range(count):
            cut = most > length and rng.random() < self.cut
            total = rng.randint(length + 1, most) if cut else length
            streams.append(self._stream(rng, length, total, test=False, held_out=False))
        return streams

    def test(self, count: int, lengths: Sequence[int], *, held_out: bool = True) -> list[Stream]:
        """Streams from draws of their own; where `held_out`, of pairs that training never has."""
        rng = random.Random(f"{self.seed} test {held_out} {list(lengths)}")
        drawn = (rng.choice(lengths) for _ in range(count))
        return [self._stream(rng, n, n, test=True, held_out=held_out) for n in drawn]

    def pairs(self) -> set[tuple[str, str]]:
        """The ordered pairs that are held out."""
        return held_out_pairs(self.tasks, self.held_out, self.seed)

    def _stream(self, rng: random.Random, length: int, total: int, *, test: bool, held_out: bool) -> Stream:
        """`length` parts of an answer to `total` lines."""
        if not 1 <= length <= total <= MOST:
            raise ConfigError(f"a stream of functions has 1 to {MOST} lines, got {length} of {total}")
        pairs = self.pairs()
        number = rng.randint(1, MOST + 1 - total)
        parts: list[Part] = []
        inputs: list[str] = []
        for i in range(total):
            before = parts[-1].task if parts else None
            task = next_task(rng, self.tasks, before, again=self.again, pairs=pairs, held_out=held_out)
            text, answer = draw_line(rng, task, test=test, taken=inputs)
            lead = f"{number + i}:"
            parts.append(Part(task, lead, f" {text} > {answer}\n", f"{lead} {text} >", answer))
            inputs.append(text)
        listed = "".join(f"{part.lead} {text}\n" for part, text in zip(parts, inputs, strict=True))
        following = parts[length].lead if total > length else ""
        return Stream(f"{listed}Answers:\n", tuple(parts[:length]), following)


def draw_line(rng: random.Random, function: str, *, test: bool, taken: Sequence[str] = ()) -> tuple[str, str]:
    """An input of a function, none of those `taken`, and its answer.

    A fifth of all inputs is for `test` alone. Raises ConfigError for an unknown function, or one that makes
    nothing of such inputs.
    """
    world = World()
    shape = SHAPES[world.shape(function)]
    for _ in range(_TRIES):
        text = shape(rng)
        answer = world.answer(function, text)
        if (
            answer
            and "\n" not in text + answer
            and text not in taken
            and (crc32(text.encode()) % 5 == 0) == test
        ):
            return text, answer
    raise ConfigError(f"{function} makes nothing of {_TRIES} inputs; leave it out of streams")


def line_task(function: str, *, seed: int, train_rows: int, test_rows: int) -> Task:
    """A function as lines of a stream, each alone: `1: input >` is answered with the rest of the line.

    Raises what `draw_line` raises.
    """
    rng = random.Random(f"{seed} lines {function}")

    def rows(count: int, *, test: bool) -> tuple[Row, ...]:
        drawn = [draw_line(rng, function, test=test) for _ in range(count)]
        return tuple(Row(f"{rng.randint(1, MOST)}: {text} >", f" {answer}\n") for text, answer in drawn)

    return Task(
        name=function,
        descriptions=(World().find(function).descriptions[0],),
        train=rows(train_rows, test=False),
        test=rows(test_rows, test=True),
        category=World().shape(function),
    )
