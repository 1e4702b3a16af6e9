"""Streams of letters: numbered lines, each with the name of a task and an input; the answer works them off.

    3Acab        3Acab >bac
    4Cdob   ->   4Cdob >bdo
    3-4 >

Names are capital letters that say nothing by themselves: which task A is, only training tells. The place to
ask for another adapter is behind the name. No letter stands twice in the inputs of a stream, so the small
base finds its place among the lines. The last line says from where to where; a prompt of training may hold
lines before and after those, which are not answered. So the base learns to find a line at distances that only
longer streams would have. An answer of training may also be cut: more lines are asked for than it has parts,
and it stops where the next one begins. So the number of parts says nothing of the end, the last line does.
Which tasks may follow each other is drawn once per seed: some ordered pairs are held out, and a held-out
stream has no other.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from weft.errors import ConfigError
from weft.tasks.letters.operation import ALPHABET
from weft.tasks.letters.world import World
from weft.tasks.streams import Part, Stream, held_out_pairs, next_task

NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST = 6
"""Lines of a stream: their inputs use up the alphabet."""


@dataclass(frozen=True)
class LetterStreams:
    """Streams over tasks of the letters world.

    Raises ConfigError for fewer than 3 tasks or more than 26, or an unknown one.
    """

    tasks: tuple[str, ...]
    seed: int = 0
    held_out: float = 0.25
    """Share of the ordered pairs of different tasks that no training stream has."""
    again: float = 0.2
    """How often a line has the task of the line before it."""
    lines: int = MOST
    """Most lines of a training prompt. Test prompts hold what is asked for, and no other line."""
    cut: float = 0.0
    """How often a training answer is cut, where its prompt has more lines than it has parts."""

    def __post_init__(self) -> None:
        """Check the tasks."""
        if not 3 <= len(self.tasks) <= len(NAMES):
            raise ConfigError(f"streams take 3 to {len(NAMES)} tasks, got {len(self.tasks)}")
        for task in self.tasks:
            World().solve(task, ALPHABET[:3])

    def train(self, draw: int, count: int, lengths: Sequence[int]) -> list[Stream]:
        """`count` streams of a draw, with as many parts and lines; equal draws are equal."""
        rng = random.Random(f"{self.seed} train {draw}")
        length = rng.choice(lengths)
        total = rng.randint(length, max(length, min(self.lines, MOST)))
        pairs = self.pairs()
        streams = []
        for _ in range(count):
            cut = total > length and rng.random() < self.cut
            asked = rng.randint(length + 1, total) if cut else length
            streams.append(self._stream(rng, length, asked, total, pairs, held_out=False))
        return streams

    def test(self, count: int, lengths: Sequence[int], *, held_out: bool = True) -> list[Stream]:
        """Streams from draws of their own; where `held_out`, of pairs that training never has."""
        rng = random.Random(f"{self.seed} test {held_out} {list(lengths)}")
        pairs = self.pairs()
        drawn = (rng.choice(lengths) for _ in range(count))
        return [self._stream(rng, n, n, n, pairs, held_out=held_out) for n in drawn]

    def pairs(self) -> set[tuple[str, str]]:
        """The ordered pairs that are held out: as many after each task, at least one."""
        return held_out_pairs(self.tasks, self.held_out, self.seed)

    def _stream(
        self,
        rng: random.Random,
        length: int,
        asked: int,
        total: int,
        pairs: set[tuple[str, str]],
        *,
        held_out: bool,
    ) -> Stream:
        """`length` parts of an answer to `asked` of `total` lines."""
        if not 1 <= length <= MOST:
            raise ConfigError(f"a stream of letters has 1 to {MOST} lines, got {length}")
        letters = list(ALPHABET)
        rng.shuffle(letters)
        world = World()
        number = rng.randint(0, 10 - total)
        parts: list[Part] = []
        lines: list[str] = []
        for i in range(total):
            before = parts[-1].task if parts else None
            task = next_task(rng, self.tasks, before, again=self.again, pairs=pairs, held_out=held_out)
            text, answer = _example(rng, world, task, letters)
            lead = f"{number + i}{NAMES[self.tasks.index(task)]}"
            parts.append(Part(task, lead, f"{text} >{answer}\n", f"{text} >", answer))
            lines.append(f"{lead}{text}\n")
        first = rng.randint(0, total - asked)
        last = f"{number + first}-{number + first + asked - 1} >"
        following = parts[first + length].lead if asked > length else ""
        return Stream("".join(lines) + last, tuple(parts[first : first + length]), following)


def _example(rng: random.Random, world: World, task: str, letters: list[str]) -> tuple[str, str]:
    """An input of three or four of the letters, which are used up, that the task does something to."""
    size = rng.choice((3, 4))
    text = "".join(letters[:size])
    answer = world.solve(task, text)
    while answer is None or answer == text:
        rng.shuffle(letters)
        text = "".join(letters[:size])
        answer = world.solve(task, text)
    del letters[:size]
    return text, answer
