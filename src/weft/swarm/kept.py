"""What one stage keeps for the coordinator: things by hash, held while they act, then let go in time."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from weft.errors import PoolFullError, WeftError
from weft.swarm.seat import Call, Seat
from weft.swarm.stage import ADAPTERS
from weft.swarm.things import Thing

_SPARE = 48
"""Things that act on no row and stay with the stage all the same."""


class Kept:
    """Puts things to the stage of a seat and lets it drop them."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._known: OrderedDict[str, Thing] = OrderedDict()
        """The least recently held first."""
        self._held: Counter[str] = Counter()
        self._slots: dict[str, int] = {}
        """Where the pool of the stage has an adapter; a worker that comes later puts it there too."""

    def has(self, things: Sequence[Thing]) -> bool:
        """Whether the stage has all of them."""
        return all(thing.key in self._known for thing in things)

    def hold(self, things: Sequence[Thing]) -> None:
        """Keep things, or none of them, until they are released as often.

        Raises PoolFullError where the pool of the stage has no place, and what the stage says of a thing.
        """
        done: list[Thing] = []
        try:
            for thing in things:
                while thing.key not in self._known:
                    try:
                        self._put(self._seat.call, thing)
                    except PoolFullError:
                        if not self._drop_one():
                            raise
                    else:
                        self._known[thing.key] = thing
                self._known.move_to_end(thing.key)
                self._held[thing.key] += 1
                done.append(thing)
        except WeftError:
            self.release(done)
            raise

    def release(self, things: Sequence[Thing]) -> None:
        """Let things be dropped again."""
        for thing in things:
            if self._held[thing.key] <= 1:  # what a gate decided after it was held is not held itself
                del self._held[thing.key]
            else:
                self._held[thing.key] -= 1
        while len(self._known) - len(self._held) > _SPARE and self._drop_one():
            pass

    def bring(self, call: Call) -> None:
        """Put all of them to a worker that has none."""
        for thing in self._known.values():
            self._put(call, thing)

    def _drop_one(self) -> bool:
        """Let the stage drop what has been without a row for longest; whether there was something."""
        key = next((key for key in self._known if key not in self._held), None)
        if key is not None:
            if self._seat.begun:
                self._seat.call("drop", ADAPTERS, {"key": key}, {})
            del self._known[key]
            self._slots.pop(key, None)
        return key is not None

    def _put(self, call: Call, thing: Thing) -> None:
        fields = {"sort": thing.sort, "key": thing.key, "fields": dict(thing.fields)}
        if thing.key in self._slots:
            fields["slot"] = self._slots[thing.key]
        told = call("put", ADAPTERS, fields, thing.tensors).fields
        if "slot" in told:
            self._slots[thing.key] = told["slot"]
