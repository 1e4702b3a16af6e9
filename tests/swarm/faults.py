"""Stages in this process, and links between them and the coordinator that fail by a seeded schedule.

Time is simulated: a call that is slow or is not answered moves a clock, and nobody waits.
"""

import itertools
import random

from weft.errors import WorkerError
from weft.swarm import AbstractLink, Part, Stage, SwarmHost
from weft.swarm.message import decode, encode

KINDS = (
    "lost call",
    "lost answer",
    "late answer",
    "duplicate",
    "flip call",
    "flip answer",
    "kill",
    "kill after",
    "hang",
    "slow",
)


class Clock:
    """The time that coordinators of the tests see."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


CLOCK = Clock()


class Place:
    """Where a stage runs: it may die, and another one takes its place."""

    def __init__(self, part):
        self.part = part
        self.stage = Stage(part)
        self.late = []
        """Answers that come when nobody waits for them any more."""
        self.hangs = False

    def kill(self):
        self.stage = Stage(self.part)
        self.hangs = False

    def connect(self, draw, failed):
        """A link; whoever watches over the workers has replaced one that hangs by the second failure."""
        if self.hangs and failed >= 2:
            self.kill()
        return FaultyLink(self, draw)


class FaultyLink(AbstractLink):
    """Fails before or after the stage has acted, as `draw()` says for every call."""

    def __init__(self, place, draw):
        self.place, self.draw = place, draw
        self.answers = []
        """Each with the seconds that it takes."""

    def send(self, message):
        fault = self.draw()
        data = encode(message)
        if self.place.hangs:
            return
        if fault == "hang":
            self.place.hangs = True
            return
        if fault == "lost call":
            raise WorkerError("the call was lost")
        if fault == "flip call":
            decode(flipped(data))  # the worker notices, and ends the connection
        if fault == "kill":
            self.place.kill()
            raise WorkerError("the worker was killed before it acted")
        answer = encode(self.place.stage.answer(decode(data)))
        taken = random.Random(data).uniform(0, 10) if fault == "slow" else 0.001
        if fault == "duplicate":
            self.answers.append((encode(self.place.stage.answer(decode(data))), taken))
        if fault == "kill after":
            self.place.kill()
            raise WorkerError("the worker was killed after it acted")
        if fault == "lost answer":
            return
        if fault == "late answer":
            self.place.late.append((answer, taken))
            return
        self.answers.append((flipped(answer) if fault == "flip answer" else answer, taken))

    def receive(self, seconds):
        if self.place.late and self.answers:
            self.answers = [*self.place.late, *self.answers]
            self.place.late = []
        if not self.answers or self.answers[0][1] > seconds:
            CLOCK.now += seconds
            self.place.late += [(answer, 0.0) for answer, _ in self.answers]  # a slow one comes after all
            self.answers = []
            raise WorkerError("no answer in time")
        answer, taken = self.answers.pop(0)
        CLOCK.now += taken
        return decode(answer)

    def close(self):
        self.answers = []


def flipped(data):
    """The same bytes but one bit, chosen by their content."""
    rng = random.Random(data)
    bit = rng.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class Schedule:
    """Faults of a seed; `counts` tells which have happened."""

    def __init__(self, seed, rate=0.1, kinds=KINDS):
        self.rng, self.rate, self.kinds = random.Random(seed), rate, kinds
        self.counts = dict.fromkeys(kinds, 0)

    def __call__(self):
        if self.rng.random() >= self.rate:
            return None
        kind = self.rng.choice(self.kinds)
        self.counts[kind] += 1
        return kind


def parts_of(model, cuts):
    """The layers of a model between the cuts: `[0, 1, 2]` makes two parts."""
    return [Part(model, first, last) for first, last in itertools.pairwise(cuts)]


def spread(parts, draw=lambda: None, **options):
    """A spread host over parts in this process, and the places of its stages."""
    places = [Place(part) for part in parts]
    host = SwarmHost(
        [lambda failed, place=place: place.connect(draw, failed) for place in places], tries=30, **options
    )
    return host, places
