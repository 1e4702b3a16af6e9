"""A stage: some layers of a base, the adapters and caches of those layers, and calls that are answered once.

Every call names (session, stage, epoch, position). A session is one cache; position counts its calls. The
newest call of a session may be repeated, and gets the answer that was given: an answer that was lost on the
way changes nothing. A new epoch forgets all sessions, since its coordinator replays them; a call of an
older epoch is refused, so a coordinator or a message that comes late changes nothing either.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from weft.adapters import site_at
from weft.errors import MessageError, ShapeError, WeftError
from weft.host import Pool
from weft.host.cache import RowCache
from weft.host.pool import content
from weft.rows import Share
from weft.swarm.message import Message
from weft.swarm.part import Part
from weft.types import Adapter, Factors

ADAPTERS = 0
"""The session of the calls that bring and drop adapters."""
_SHARES = 256
"""Shares that are kept as one value each, so that rows that stay are put together once."""


@dataclass(eq=False)
class _Session:
    cache: RowCache
    done: int = 0
    """How many calls were answered."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the newest one."""
    answer: Message | None = None


class Stage:
    """A part of a base that answers calls, one at a time, from any thread.

    Adapters act from `pool`; without one it has a pool that grows.
    """

    def __init__(self, part: Part, *, pool: Pool | None = None) -> None:
        self.part = part
        if pool is None:
            pool = Pool(part.sites, slots=4, r=8, device=part.device, grow=True)
        self.pool = pool
        self.epoch = 0
        self.instance = secrets.token_hex(8)
        """Tells a worker that was started again from one that was slow."""
        self._sessions: dict[int, _Session] = {}
        self._adapters: dict[str, Adapter] = {}
        self._shares: OrderedDict[tuple[tuple[str, float], ...], Share] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, call: Message) -> Message:
        """Answer a call; what is wrong with it is answered too, as `error` and one line of `text`."""
        with self._lock:
            try:
                answer = self._fenced(call)
            except WeftError as error:
                answer = _refusal(error)
            except Exception as error:  # one bad call must not end the others' sessions
                answer = Message({"error": "Failed", "text": f"{type(error).__name__}: {error}"[:400]})
        serial = call.fields.get("serial")
        return Message({**answer.fields, "serial": serial if type(serial) is int else -1}, answer.tensors)

    def _fenced(self, call: Message) -> Message:
        kind = call.text("kind")
        if kind == "hello":
            return Message(self._description())
        if call.wholes("stage") != [self.part.first, self.part.last]:
            raise MessageError(f"a call for another stage than layers {self.part.first} to {self.part.last}")
        epoch = call.whole("epoch")
        if epoch < self.epoch or (kind == "begin" and epoch == self.epoch):
            return Message({"error": "OldEpoch", "text": f"epoch {epoch} is over, this is {self.epoch}"})
        if kind == "begin":
            self._begin(epoch)
            return Message({})
        if epoch > self.epoch:
            return Message({"error": "Gap", "text": f"epoch {epoch} has not begun here"})
        session, position = call.whole("session"), call.whole("position")
        if session not in self._sessions and position == 0:
            self._sessions[session] = _Session(self.part.new_cache())
        here = self._sessions.get(session)
        fields = {name: value for name, value in call.fields.items() if name != "serial"}
        if here is not None and here.answer is not None and position == here.done - 1:
            if fields == here.fields:
                return here.answer
            raise MessageError(f"call {position} of session {session} was another one")
        if here is None or position != here.done:
            done = 0 if here is None else here.done
            return Message({"error": "Gap", "text": f"call {position} of a session of {done} calls"})
        try:
            here.answer = self._act(kind, call, session, here)
        except MessageError:
            raise  # nothing was done
        except WeftError as error:
            here.answer = _refusal(error)
        here.done, here.fields = here.done + 1, fields
        return here.answer

    def _description(self) -> dict[str, Any]:
        part = self.part
        return {
            "base": part.base,
            "layers": part.layers,
            "first": part.first,
            "last": part.last,
            "window": part.window,
            "vocab_size": part.vocab_size,
            "hidden": part.hidden,
            "dtype": str(part.dtype),
            "sites": [[site.path, site.in_features, site.out_features] for site in part.sites],
            "instance": self.instance,
            "epoch": self.epoch,
        }

    def _begin(self, epoch: int) -> None:
        for adapter in self._adapters.values():
            self.pool.unpin(adapter)
            self.pool.evict(adapter)
        self._adapters.clear()
        self._shares.clear()
        self._sessions.clear()
        self.epoch = epoch

    def _act(self, kind: str, call: Message, session: int, here: _Session) -> Message:
        rows = len(here.cache.lengths)
        if (session == ADAPTERS) != (kind in ("put", "drop", "embed")):
            raise MessageError(f"session {session} has no call {kind!r:.40}")
        match kind:
            case "put":
                self._put(call)
            case "drop":
                self._drop(call.text("key"))
            case "embed":
                return Message({}, {"x": self.part.embed(self._input(call, first=True))})
            case "step":
                return self._step(call, here)
            case "join":
                other = self._sessions.get(call.whole("other"))
                if other is None or other is here or not other.cache.lengths:
                    raise MessageError("rows join from another session that has some")
                chosen = call.wholes("rows", len(other.cache.lengths) - 1)
                if not chosen:
                    raise MessageError("no rows join")
                here.cache.join(other.cache, chosen)
            case "leave" if rows:
                here.cache.leave(call.whole("row", rows - 1))
            case "cut" if rows:
                here.cache.cut(call.whole("row", rows - 1), call.whole("count"))
            case _:
                raise MessageError(f"a session of {rows} rows has no call {kind!r:.40}")
        return Message({})

    def _step(self, call: Message, here: _Session) -> Message:
        x = self._input(call, first=self.part.is_first).to(self.part.device)
        rows, tokens = x.shape[:2]
        counts = call.wholes("counts", tokens)
        shares = [self._share(share) for share in call.list("shares")]
        begun = not here.cache.lengths
        starts = call.wholes("starts") if begun else []
        if {len(counts), len(shares), len(starts) if begun else len(here.cache.lengths)} != {rows}:
            raise ShapeError(f"a step of {rows} rows over a session of {len(here.cache.lengths)}")
        live = {ADAPTERS, call.whole("session"), *call.wholes("live")}
        self._sessions = {session: kept for session, kept in self._sessions.items() if session in live}
        if begun:
            here.cache.begin(starts)
        try:
            said = self.part.step(x, here.cache, shares, counts, self.pool)
        except Exception:
            if begun:
                here.cache.begin([])
            raise
        if not call.fields.get("capture"):
            said.pop("hidden", None)
        return Message({}, said)

    def _input(self, call: Message, *, first: bool) -> Tensor:
        """Token ids of the first stage, or the states that the stage before has made."""
        if first and not self.part.is_first:
            raise MessageError("only the first stage reads token ids")
        if first:
            x = call.tensor("ids", 2)
            if x.dtype != torch.long or not x.numel() or x.min() < 0 or x.max() >= self.part.vocab_size:
                raise MessageError(f"token ids are whole numbers below {self.part.vocab_size}")
            return x
        x = call.tensor("x", 3)
        if x.dtype != self.part.dtype or not x.numel() or x.shape[2] != self.part.hidden:
            raise MessageError(f"states are {self.part.dtype} of {self.part.hidden} features")
        return x

    def _share(self, given: Any) -> Share:
        key = tuple(_weighed(pair) for pair in given) if isinstance(given, list) else None
        if key is None or not all(name in self._adapters for name, _ in key):
            raise MessageError("a share of adapters that are not here")
        if key not in self._shares:
            self._shares[key] = Share(tuple((self._adapters[name], weight) for name, weight in key))
            if len(self._shares) > _SHARES:
                self._shares.popitem(last=False)
        self._shares.move_to_end(key)
        return self._shares[key]

    def _put(self, call: Message) -> None:
        key, factors = call.text("key"), {}
        for place, entry in enumerate(call.list("sites")):
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                raise MessageError("a site of an adapter is its path and its scaling")
            a_RI, b_OR = call.tensor(f"a{place}", 2), call.tensor(f"b{place}", 2)
            if not (a_RI.is_floating_point() and b_OR.is_floating_point() and len(a_RI) == b_OR.shape[1]):
                raise MessageError(f"the factors of {entry[0]!r:.80} do not fit each other")
            _, scaling = _weighed(entry)
            factors[site_at(entry[0], a_RI.shape[1], len(b_OR))] = Factors(a_RI, b_OR, scaling)
        adapter = Adapter(factors, name=call.text("name"))
        if not factors or content(adapter) != key:
            raise MessageError("an adapter does not have the hash that it was sent with")
        if key not in self._adapters:
            self.pool.pin(adapter)
            self._adapters[key] = adapter

    def _drop(self, key: str) -> None:
        adapter = self._adapters.pop(key, None)
        if adapter is not None:
            self._shares = OrderedDict(
                (named, share) for named, share in self._shares.items() if key not in dict(named)
            )
            self.pool.unpin(adapter)
            self.pool.evict(adapter)


def _weighed(pair: Any) -> tuple[str, float]:
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
        raise MessageError("an adapter of a share is its hash and its weight")
    if type(pair[1]) not in (int, float):
        raise MessageError("the weight of an adapter is a number")
    return pair[0], float(pair[1])


def _refusal(error: WeftError) -> Message:
    return Message({"error": type(error).__name__, "text": " ".join(str(error).split())[:400]})
