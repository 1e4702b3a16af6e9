"""A host whose layers lie on several workers, which may die: to whoever decodes it is a host like any other.

States go from stage to stage through the coordinator. With its answer each stage gives what it has written
into its cache; a step counts when every stage has answered and the journal has it, and then its logits are
given. So no token is released that a new worker could not be brought to, and a stage that dies is filled with
the numbers that it had: what follows is equal to the bit.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft.adapters import check_fits
from weft.errors import ConfigError, MessageError, ShapeError, WeftError, WorkerError
from weft.rows import AbstractCache, AbstractHost, Share, Stepped
from weft.swarm.cache import SwarmCache
from weft.swarm.codec import Codec
from weft.swarm.greeting import greeted
from weft.swarm.journal import RowJournal
from weft.swarm.kept import Kept
from weft.swarm.seat import Call, Connect, Seat
from weft.swarm.shares import Shares, Told, check_bank
from weft.swarm.stage import ADAPTERS
from weft.swarm.tape import Tape, heard_step, told_step
from weft.swarm.whole import causal, read_whole
from weft.types import Mixture


class SwarmHost(AbstractHost):
    """Stages in the order of their layers, each behind a way to connect to its worker.

    A step of a stage may take `patience` seconds, or ten times its mean; then its worker counts as lost.
    `journal` is a file that lets a coordinator be started again (see `Tape`); `codec` is how states travel.
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
        generation_config: Any = None,
        journal: str | os.PathLike[str] | None = None,
        codec: Codec = "none",
        log: Callable[..., None] | None = None,
    ) -> None:
        self.tokenizer, self.name = tokenizer, name
        self.generation_config = generation_config
        self._log = log
        """Told of every step: `log("step", rows=..., tokens=..., seconds=...)`."""
        # First: a run that is refused here takes the swarm from nobody.
        self._tape = None if journal is None else Tape(journal)
        self.seats = [Seat(connect, patience=patience, tries=tries) for connect in stages]
        self._base = greeted([seat.open() for seat in self.seats])
        self.fingerprint = self._base.fingerprint
        self.sites = tuple(sorted(itertools.chain(*self._base.sites)))
        self.hidden = self._base.hidden
        self.codec: Codec = codec
        self._shares = Shares(self._base.sites)
        self._kept = [Kept(seat) for seat in self.seats]
        self._caches: WeakSet[SwarmCache] = WeakSet()
        self._sessions = itertools.count(ADAPTERS + 1)
        for place, seat in enumerate(self.seats):
            seat.replay = self._replaying(place)

    @property
    def window(self) -> int | None:
        """Most positions that the base was made for; None where there is no limit."""
        return self._base.window

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return self._base.vocab_size

    @property
    def device(self) -> torch.device:
        """Where token ids and logits lie: with the coordinator."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the states that go from stage to stage."""
        return self._base.dtype

    def forward(
        self,
        ids_BT: Int[Tensor, "B T"],
        mixture: Mixture | None = None,
        *,
        mask_BT: Int[Tensor, "B T"] | None = None,
        cache: Any = None,
        attention_mask: Float[Tensor, "B 1 T T"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        chosen_BT: Bool[Tensor, "B T"] | None = None,
    ) -> Any:
        """Run whole sequences without a cache; differentiable in the tensors of the mixture's banks.

        `.logits` are [B, T, V], or [N, V] of the places that are chosen. `attention_mask` is added to the
        scores, as packed rows need it. In the backward every stage computes its layers again; a worker that
        dies in between is replaced, and the gradients are the same.

        Raises ConfigError for gates that look at states or a cache, which `step` takes, ShapeError for a
        mask of another form, WorkerError where a stage is lost, and what `Host.forward` raises of a bank.
        """
        rows, tokens = ids_BT.shape
        if cache is not None:
            raise ConfigError("a spread host decodes by step, over its own caches")
        if mask_BT is not None:
            raise ShapeError("a spread host takes attention_mask [B, 1, T, T] for whole sequences")
        if attention_mask is None:
            attention_mask = causal(rows, tokens, self.dtype)
        if position_ids is None:
            position_ids = torch.arange(tokens).expand(rows, tokens)
        for term in mixture.terms if mixture is not None else ():
            check_bank(term.bank, self.sites, self.fingerprint)
        logits = read_whole(
            self.seats,
            self._base.sites,
            ids_BT,
            mixture,
            mask_B1TT=attention_mask,
            positions_BT=position_ids,
            chosen_BT=chosen_BT,
        )
        return SimpleNamespace(logits=logits.unflatten(0, (rows, tokens)) if chosen_BT is None else logits)

    def new_cache(self) -> SwarmCache:
        """A cache of no rows."""
        cache = SwarmCache(self, self.everywhere, next(self._sessions))
        self._caches.add(cache)
        return cache

    def embed(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
        """Input embeddings, from the first stage. Raises WorkerError where it is lost."""
        return self.seats[0].call("embed", ADAPTERS, {}, {"ids": ids_BT}).tensor("x", 3)

    def hold(self, share: Share) -> None:
        """Keep the adapters, banks and gates of a share at the stages until it is released.

        Raises PoolFullError where the pool of a stage has no place, ConfigError for a gate that stages do not
        know, WorkerError where one is lost, and what `check_fits` and `Pool.put` raise.
        """
        for adapter, _ in share.adapters:
            check_fits(adapter, self.sites, self.fingerprint)
        for term in share.terms:
            check_bank(term.bank, self.sites, self.fingerprint)
        held: list[tuple[Kept, Told]] = []
        try:
            for kept, told in zip(self._kept, self._shares.told(share), strict=True):
                kept.hold(told.things)
                held.append((kept, told))
        except WeftError:
            for kept, told in held:
                kept.release(told.things)
            raise

    def release(self, share: Share) -> None:
        """Let what acts on a row be dropped again."""
        for kept, told in zip(self._kept, self._shares.told(share), strict=True):
            kept.release(told.things)

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
            begun = [RowJournal.begin(int(start), len(self.seats)) for start in first]
        if not rows == len(begun) == len(shares) == len(counts):
            raise ShapeError(
                f"{rows} rows of tokens, {len(begun)} in the cache, {len(shares)} shares "
                f"and {len(counts)} counts"
            )
        told = [self._shares.told(share) for share in shares]
        held: list[Share] = []
        try:
            if not all(
                kept.has(one.things) for own in told for kept, one in zip(self._kept, own, strict=True)
            ):
                for share in shares:
                    self.hold(share)
                    held.append(share)
            return self._run(ids_BT, cache, begun, told, counts, capture)
        finally:
            for share in held:
                self.release(share)

    def _run(
        self,
        ids_BT: Tensor,
        cache: SwarmCache,
        begun: list[RowJournal],
        told: Sequence[Sequence[Told]],
        counts: Sequence[int],
        capture: bool,
    ) -> Stepped:
        started = time.perf_counter()
        try:
            said = self._heard(ids_BT, told, counts)
            if said is None:
                said = self._asked(ids_BT, cache, begun, told, counts, capture or self._tape is not None)
                if self._tape is not None:
                    self._tape.add(told_step(self._plan(told, counts), ids_BT, *said))
        except MessageError as error:
            self._forget()
            raise WorkerError(f"a stage answers something else than it should: {error}") from error
        except BaseException:
            self._forget()
            raise
        stepped, written = said
        for row, (journal, count) in enumerate(zip(begun, counts, strict=True)):
            journal.read([one[:, row, :, :count].clone() for one in written], count)
        cache.rows = begun
        if self._log is not None:
            self._log("step", rows=len(begun), tokens=sum(counts), seconds=time.perf_counter() - started)
        return stepped if capture else Stepped(stepped.logits_BV, None)

    def _asked(
        self,
        ids_BT: Tensor,
        cache: SwarmCache,
        begun: list[RowJournal],
        told: Sequence[Sequence[Told]],
        counts: Sequence[int],
        capture: bool,
    ) -> tuple[Stepped, list[Tensor]]:
        """One step through all stages."""
        tensors: Mapping[str, Tensor] = {"ids": ids_BT}
        fields: dict[str, Any] = {"counts": list(counts), "capture": capture}
        fields["live"] = [one.session for one in self._caches]
        if self.codec != "none":
            fields["codec"] = self.codec
        if not cache.rows:
            fields["starts"] = [row.first for row in begun]
        written: list[Tensor] = []
        said = None
        for place, seat in enumerate(self.seats):
            fields["shares"] = [own[place].reference for own in told]
            said = seat.call("step", cache.session, fields, tensors)
            written.append(said.tensor("written", 5))
            tensors = {name: tensor for name, tensor in said.tensors.items() if name != "written"}
            fields.pop("decided", None)
            if "decided" in said.fields:
                fields["decided"] = said.list("decided")
        assert said is not None
        hidden_BH = said.tensor("hidden", 2) if capture else None
        return Stepped(said.tensor("logits", 2).float(), hidden_BH), written

    def _heard(
        self, ids_BT: Tensor, told: Sequence[Sequence[Told]], counts: Sequence[int]
    ) -> tuple[Stepped, list[Tensor]] | None:
        """The step as the journal on disk has it; None from the first one on that it does not have."""
        if self._tape is None or not self._tape.plays:
            return None
        message = self._tape.hear()
        if message is None:  # the last one was half written
            self._forget()
            return None
        heard = heard_step(message, self._plan(told, counts), ids_BT, len(self.seats))
        if heard is None:
            raise ConfigError(f"the journal {self._tape.path} is of another run; give this one its own")
        hidden_BH, written = heard
        said = self.seats[-1].call("head", ADAPTERS, {}, {"hidden": hidden_BH})
        if not self._tape.plays:
            self._forget()  # from now on the stages are asked: they are brought to where the journal is
        return Stepped(said.tensor("logits", 2).float(), hidden_BH), written

    def _plan(self, told: Sequence[Sequence[Told]], counts: Sequence[int]) -> dict[str, Any]:
        """What the journal on disk says of a step beside its tensors."""
        shares = [[one.reference for one in own] for own in told]
        return {"base": self.fingerprint, "counts": list(counts), "shares": shares}

    def everywhere(self, kind: str, session: int, fields: Mapping[str, Any]) -> None:
        """One call of a session at every stage. Raises WorkerError where one is lost.

        A stage that has to be brought to the journal first is not asked: the journal will have it. So rows of
        a coordinator that has lost its swarm leave, and take it back from nobody.
        """
        if self._tape is not None and self._tape.plays:
            return  # the stages hold nothing of it yet
        try:
            for seat in self.seats:
                if seat.begun:
                    seat.call(kind, session, fields, {})
        except WeftError:
            self._forget()
            raise

    def close(self) -> None:
        """End the connections; the workers stay."""
        for seat in self.seats:
            seat.close()
        if self._tape is not None:
            self._tape.close()

    def _forget(self) -> None:
        """A call was done at some stages alone: all are brought to the journal before the next one."""
        for seat in self.seats:
            seat.forget()

    def _replaying(self, place: int) -> Callable[[Call], None]:
        def bring(call: Call) -> None:
            self._kept[place].bring(call)
            for cache in self._caches:
                for row in cache.rows:
                    told = {"start": row.first, "length": row.length}
                    call("fill", cache.session, told, {"written": row.whole(place)})

        return bring
