"""A host whose layers lie on several workers, which may die: to whoever decodes it is a host like any other.

States go from stage to stage through the coordinator, which writes down what each stage read. A step counts
when every stage has answered and the journal has it; then its logits are given. So no token is released that
a new worker could not be brought to, and a stage that dies costs one replay of that stage.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.adapters import check_fits, site_at
from weft.errors import ConfigError, MessageError, PoolFullError, ShapeError, WeftError, WorkerError
from weft.rows import AbstractCache, AbstractHost, Share, Stepped
from weft.swarm.journal import RowJournal, Weighed, replay
from weft.swarm.seat import Call, Connect, Seat
from weft.swarm.shares import Shares
from weft.swarm.stage import ADAPTERS
from weft.types import Adapter, Mixture

_SPARE = 16
"""Adapters that act on no row and stay with the stages all the same."""


class SwarmCache(AbstractCache):
    """Rows whose keys and values lie with the stages of a spread host, and their journals."""

    def __init__(self, host: SwarmHost, session: int) -> None:
        self.host, self.session = host, session
        self.rows: list[RowJournal] = []

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens of each row the stages hold."""
        return [row.length for row in self.rows]

    @property
    def starts(self) -> Sequence[int]:
        """The position of the first token held of each row."""
        return [row.first for row in self.rows]

    def join(self, other: AbstractCache, rows: Sequence[int]) -> None:
        """Add some rows of another cache of the same host. Raises ShapeError for one of another kind."""
        if not isinstance(other, SwarmCache) or other.host is not self.host or other is self:
            raise ShapeError("rows join a cache of the same host")
        self.host.everywhere("join", self.session, {"other": other.session, "rows": list(rows)})
        self.rows += [other.rows[row].copy() for row in rows]

    def leave(self, row: int) -> None:
        """Drop one row; the last one takes its place."""
        self.host.everywhere("leave", self.session, {"row": row})
        self.rows[row] = self.rows[-1]
        self.rows.pop()

    def cut(self, row: int, count: int) -> None:
        """Drop the first tokens of one row. Raises ShapeError where there are not more than `count`."""
        if not 0 <= count < self.rows[row].length:
            raise ShapeError(f"cannot cut {count} tokens from a row of {self.rows[row].length}")
        self.host.everywhere("cut", self.session, {"row": row, "count": count})
        self.rows[row].cut(count)


class SwarmHost(AbstractHost):
    """Stages in the order of their layers, each behind a way to connect to its worker.

    A step of a stage may take `patience` seconds, or ten times its mean; then its worker counts as lost.
    Raises WorkerError for workers that cannot be reached, ConfigError for stages that do not make one base.
    """

    def __init__(
        self,
        stages: Sequence[Connect],
        *,
        tokenizer: Any = None,
        name: str = "",
        patience: float = 5.0,
        tries: int = 6,
    ) -> None:
        self.tokenizer, self.name = tokenizer, name
        self.seats = [Seat(connect, patience=patience, tries=tries) for connect in stages]
        told = [seat.open() for seat in self.seats]
        if not told:
            raise ConfigError("a spread host needs a stage")
        first = told[0].fields
        for one in told[1:]:
            for field in ("base", "layers", "vocab_size", "hidden", "dtype"):
                if one.fields[field] != first[field]:
                    raise ConfigError(f"the stages have {field} {first[field]} and {one.fields[field]}")
        ends = [0, *(seat.place[1] for seat in self.seats)]
        if [seat.place[0] for seat in self.seats] != ends[:-1] or ends[-1] != first["layers"]:
            places = ", ".join(f"{i}-{j}" for i, j in (seat.place for seat in self.seats))
            raise ConfigError(f"stages of layers {places} do not make a base of {first['layers']} layers")
        sites = [[site_at(*site) for site in one.list("sites")] for one in told]
        self.fingerprint = told[0].text("base")
        self.sites = tuple(sorted(itertools.chain(*sites)))
        self._window, self._vocab_size = first["window"], told[0].whole("vocab_size")
        self._shares = Shares(sites)
        self._held: dict[tuple[str, ...], int] = {}
        self._known: OrderedDict[tuple[str, ...], Adapter] = OrderedDict()
        """What the stages have, the least recently held first."""
        self._caches: WeakSet[SwarmCache] = WeakSet()
        self._sessions = itertools.count(ADAPTERS + 1)
        for place, seat in enumerate(self.seats):
            seat.replay = self._replaying(place)

    @property
    def window(self) -> int | None:
        """Most positions that the base was made for; None where there is no limit."""
        return self._window

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return self._vocab_size

    @property
    def device(self) -> torch.device:
        """Where token ids and logits lie: with the coordinator."""
        return torch.device("cpu")

    def forward(
        self,
        ids_BT: Int[Tensor, "B T"],
        mixture: Mixture | None = None,
        *,
        mask_BT: Int[Tensor, "B T"] | None = None,
        cache: Any = None,
    ) -> Any:
        """Raise ConfigError: whole sequences are not run over stages yet."""
        raise ConfigError("a spread host decodes; scoring and training run on a local host as yet")

    def new_cache(self) -> SwarmCache:
        """A cache of no rows."""
        cache = SwarmCache(self, next(self._sessions))
        self._caches.add(cache)
        return cache

    def embed(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
        """Input embeddings, from the first stage. Raises WorkerError where it is lost."""
        return self.seats[0].call("embed", ADAPTERS, {}, {"ids": ids_BT}).tensor("x", 3)

    def hold(self, share: Share) -> None:
        """Keep the adapters of a share at the stages until it is released.

        Raises PoolFullError where the pool of a stage has no place, ConfigError for a share that is not fixed
        for its row, WorkerError where a stage is lost, and what `check_fits` and `Pool.put` raise.
        """
        held: list[tuple[str, ...]] = []
        try:
            for adapter, _ in self._shares.weighed(share):
                held.append(self._hold(adapter))
        except WeftError:
            for key in held:
                self._release(key)
            raise

    def release(self, share: Share) -> None:
        """Let the adapters of a share be dropped again."""
        for adapter, _ in self._shares.weighed(share):
            self._release(self._shares.shards(adapter).key)

    def step(
        self,
        ids_BT: Int[Tensor, "B T"],
        cache: AbstractCache,
        shares: Sequence[Share],
        *,
        counts: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
        capture: bool = False,
    ) -> Stepped:
        """Read the next tokens of every row under its own share, and say what comes after the last one.

        Adapters that nobody holds are held for the step. Raises ShapeError for other numbers of rows or
        another host's cache, WorkerError where a stage is lost for good; the rows are then as they were.
        """
        rows, tokens = ids_BT.shape
        counts = [tokens] * rows if counts is None else list(counts)
        if not isinstance(cache, SwarmCache) or cache.host is not self:
            raise ShapeError("a spread host steps on its own caches; begin one with new_cache")
        begun = cache.rows
        if not begun:
            first = [0] * rows if starts is None else starts
            begun = [RowJournal.begin(start, len(self.seats)) for start in first]
        if not rows == len(begun) == len(shares) == len(counts):
            raise ShapeError(
                f"{rows} rows of tokens, {len(begun)} in the cache, {len(shares)} shares "
                f"and {len(counts)} counts"
            )
        weighed = [self._shares.weighed(share) for share in shares]
        used = {self._shares.shards(adapter).key for share in weighed for adapter, _ in share}
        if used <= self._known.keys():
            return self._run(ids_BT, cache, begun, weighed, counts, capture)
        held: list[Share] = []
        try:
            for share in shares:
                self.hold(share)
                held.append(share)
            return self._run(ids_BT, cache, begun, weighed, counts, capture)
        finally:
            for share in held:
                self.release(share)

    def _run(
        self,
        ids_BT: Tensor,
        cache: SwarmCache,
        begun: list[RowJournal],
        weighed: Sequence[Weighed],
        counts: Sequence[int],
        capture: bool,
    ) -> Stepped:
        inputs = [ids_BT]
        said = None
        try:
            for place, seat in enumerate(self.seats):
                fields = self._fields(place, cache, counts, weighed)
                if not cache.rows:
                    fields["starts"] = [row.start for row in begun]
                fields["capture"] = capture
                tensors = {"x" if place else "ids": inputs[-1]}
                said = seat.call("step", cache.session, fields, tensors)
                if place < len(self.seats) - 1:
                    inputs.append(said.tensor("x", 3))
            assert said is not None
            logits_BV = said.tensor("logits", 2)
            hidden_BH = said.tensor("hidden", 2) if capture else None
        except MessageError as error:
            self._forget()
            raise WorkerError(f"a stage answers something else than it should: {error}") from error
        except WeftError:
            self._forget()
            raise
        for row, (journal, count, share) in enumerate(zip(begun, counts, weighed, strict=True)):
            journal.read([x[row, :count].clone() for x in inputs], share)
        cache.rows = begun
        return Stepped(logits_BV, hidden_BH)

    def everywhere(self, kind: str, session: int, fields: Mapping[str, Any]) -> None:
        """One call of a session at every stage. Raises WorkerError where one is lost."""
        try:
            for seat in self.seats:
                seat.call(kind, session, fields, {})
        except WeftError:
            self._forget()
            raise

    def close(self) -> None:
        """End the connections; the workers stay."""
        for seat in self.seats:
            seat.close()

    def _forget(self) -> None:
        """A call was done at some stages alone: all are brought to the journal before the next one."""
        for seat in self.seats:
            seat.forget()

    def _fields(
        self, place: int, cache: SwarmCache, counts: Sequence[int], shares: Sequence[Weighed]
    ) -> dict[str, Any]:
        keys = []
        for share in shares:
            parts = [(self._shares.shards(adapter).parts[place], weight) for adapter, weight in share]
            keys.append([[part[0], weight] for part, weight in parts if part is not None])
        live = [one.session for one in self._caches]
        return {"counts": list(counts), "shares": keys, "live": live}

    def _hold(self, adapter: Adapter) -> tuple[str, ...]:
        key = self._shares.shards(adapter).key
        while key not in self._known:
            check_fits(adapter, self.sites, self.fingerprint)
            try:
                for place, seat in enumerate(self.seats):
                    self._put(seat.call, place, adapter)
            except PoolFullError:
                self._drop(adapter)
                if not self._drop_one():
                    raise
                continue
            except WeftError:
                self._drop(adapter)
                raise
            self._known[key] = adapter
        self._known.move_to_end(key)
        self._held[key] = self._held.get(key, 0) + 1
        return key

    def _release(self, key: tuple[str, ...]) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        if len(self._known) - len(self._held) > _SPARE:
            self._drop_one()

    def _put(self, call: Call, place: int, adapter: Adapter) -> None:
        part = self._shares.shards(adapter).parts[place]
        if part is None:
            return
        key, shard = part
        tensors = {}
        for i, factors in enumerate(shard.factors.values()):
            tensors[f"a{i}"], tensors[f"b{i}"] = factors.a_RI, factors.b_OR
        sites = [[site.path, float(factors.scaling)] for site, factors in shard.factors.items()]
        call("put", ADAPTERS, {"key": key, "name": adapter.name, "sites": sites}, tensors)

    def _drop_one(self) -> bool:
        """Let the stages drop the adapter that has been without a row for longest; whether there was one."""
        key = next((key for key in self._known if key not in self._held), None)
        if key is not None:
            self._drop(self._known.pop(key))
        return key is not None

    def _drop(self, adapter: Adapter) -> None:
        """A part that another adapter shares stays."""
        for place, seat in enumerate(self.seats):
            self._drop_part(seat.call, place, adapter)

    def _drop_part(self, call: Call, place: int, adapter: Adapter) -> None:
        part = self._shares.shards(adapter).parts[place]
        if part is not None and part[0] not in {key[place] for key in self._known}:
            call("drop", ADAPTERS, {"key": part[0]}, {})

    def _replaying(self, place: int) -> Callable[[Call], None]:
        def bring(call: Call) -> None:
            here: dict[tuple[str, ...], Adapter] = {}

            def have(wanted: Mapping[tuple[str, ...], Adapter]) -> None:
                for key in [key for key in here if key not in wanted]:
                    adapter = here.pop(key)
                    part = self._shares.shards(adapter).parts[place]
                    if part is not None and part[0] not in {other[place] for other in (*here, *wanted)}:
                        call("drop", ADAPTERS, {"key": part[0]}, {})
                for key, adapter in wanted.items():
                    if key not in here:
                        self._put(call, place, adapter)
                        here[key] = adapter

            for cache in self._caches:
                if not cache.rows:
                    continue
                starts = {"starts": [row.start for row in cache.rows]}
                for again in replay(cache.rows, place):
                    used = [adapter for share in again.shares for adapter, _ in share]
                    have({self._shares.shards(adapter).key: adapter for adapter in used})
                    fields = self._fields(place, cache, again.counts, again.shares)
                    call("step", cache.session, {**fields, **starts}, {"x" if place else "ids": again.x})
                    for row, count in again.cuts:
                        call("cut", cache.session, {"row": row, "count": count}, {})
            have(self._known)

        return bring
