"""A stage: some layers of a base, the adapters and caches of those layers, and calls that are answered once.

Every call names (session, stage, epoch, position). A session is one cache; position counts its calls. The
newest call of a session may be repeated, and gets the answer that was given: an answer that was lost on the
way changes nothing. A new epoch forgets all sessions, since its coordinator replays them; a call of an
older epoch is refused, so a coordinator or a message that comes late changes nothing either.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from weft.errors import MessageError, ShapeError, WeftError
from weft.host import Pool
from weft.host.cache import RowCache
from weft.plain import reason_of
from weft.rows import Share
from weft.swarm.codec import pack, unpack
from weft.swarm.learning import backward, read, token_ids
from weft.swarm.message import Message
from weft.swarm.part import Part, States
from weft.swarm.things import Thing, of_state, to_adapter, to_assignment, to_bank, to_gate, to_state
from weft.types import AbstractGate, Adapter, Assignment, Bank, Dense, Rows, State, Term, Tokens, TopK

ADAPTERS = 0
"""The session of the calls that speak of no rows."""
_WITHOUT_ROWS = ("put", "drop", "embed", "head", "read", "backward")
_SLOTS = 1 << 16
"""Numbers of adapter slots are below this."""
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
        self._things: dict[str, Adapter | Bank | Assignment | State | Thing] = {}
        """By hash; a gate stays as it came, since some kinds are made for a bank."""
        self._gates: dict[tuple[str, str], AbstractGate] = {}
        """By the hashes of gate and bank."""
        self._shares: OrderedDict[str, Share] = OrderedDict()
        self._lock = threading.Lock()
        self.seconds = 0.0
        """Mean time of a step, the newest ones count most."""

    def answer(self, call: Message) -> Message:
        """Answer a call; what is wrong with it is answered too, as `error` and one line of `text`."""
        with self._lock:
            try:
                answer = self._fenced(call)
            except WeftError as error:
                answer = _refusal(error)
            except Exception as error:  # one bad call must not end the others' sessions
                answer = Message({"error": "Failed", "text": f"{type(error).__name__}: {reason_of(error)}"})
        serial = call.fields.get("serial")
        return Message({**answer.fields, "serial": serial if type(serial) is int else -1}, answer.tensors)

    @property
    def sessions(self) -> int:
        """How many caches hold rows; may be asked while a call is answered."""
        return sum(bool(session.cache.lengths) for session in list(self._sessions.values()))

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
            "weights": part.weights,
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
        for key in list(self._things):
            self._drop(key)
        self._sessions.clear()
        self.epoch = epoch

    def _act(self, kind: str, call: Message, session: int, here: _Session) -> Message:
        rows = len(here.cache.lengths)
        if (session == ADAPTERS) != (kind in _WITHOUT_ROWS):
            raise MessageError(f"session {session} has no call {kind!r:.40}")
        match kind:
            case "put":
                return self._put(call)
            case "drop":
                self._drop(call.text("key"))
            case "embed":
                return Message({}, {"x": self.part.embed(self._input(call, first=True))})
            case "head" if self.part.is_last:
                hidden_BH = call.tensor("hidden", 2)
                if hidden_BH.dtype != self.part.dtype or hidden_BH.shape[1] != self.part.hidden:
                    raise MessageError(f"states are {self.part.dtype} of {self.part.hidden} features")
                return Message({}, {"logits": self.part.head(hidden_BH.to(self.part.device))})
            case "read":
                return read(self.part, call)
            case "backward":
                return backward(self.part, call)
            case "fill":
                self._fill(call, here)
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
        shares = [self._share(given) for given in call.list("shares")]
        starts = call.wholes("starts") if "starts" in call.fields else []
        begun = not here.cache.lengths
        if {len(counts), len(shares), len(starts) if begun else len(here.cache.lengths)} != {rows}:
            raise ShapeError(f"a step of {rows} rows over a session of {len(here.cache.lengths)}")
        live = {ADAPTERS, call.whole("session"), *call.wholes("live")}
        self._sessions = {session: kept for session, kept in self._sessions.items() if session in live}
        decided = self._decided(call)
        if begun:
            here.cache.begin(starts)
        started = time.perf_counter()
        try:
            done = self.part.step(x, here.cache, shares, counts, self.pool, decided)
        except Exception:
            if begun:
                here.cache.begin([])
            raise
        taken = time.perf_counter() - started
        self.seconds = 0.9 * self.seconds + 0.1 * taken if self.seconds else taken
        if self.part.is_last:
            said = done.said if call.fields.get("capture") else {"logits": done.said["logits"]}
            return Message({}, {**said, "written": done.written})
        fields, tensors = self._told(done.decided)
        said = pack(done.said["x"], _codec(call))
        return Message(fields, {**tensors, **said, "written": done.written})

    def _fill(self, call: Message, here: _Session) -> None:
        """A row comes back as the journal has it."""
        length = call.whole("length")
        written = call.tensor("written", 4)
        layers = self.part.last - self.part.first
        if written.dtype != self.part.dtype or (len(written), written.shape[2]) != (2 * layers, length):
            raise MessageError(f"a row of {length} tokens has keys and values of every layer")
        here.cache.fill(call.whole("start"), length, written.to(self.part.device))

    def _input(self, call: Message, *, first: bool) -> Tensor:
        """Token ids of the first stage, or the states that the stage before has made."""
        if first and not self.part.is_first:
            raise MessageError("only the first stage reads token ids")
        if first:
            return token_ids(self.part, call)
        x = unpack(call.tensors, _codec(call), self.part.dtype)
        if not x.numel() or x.shape[2] != self.part.hidden:
            raise MessageError(f"states are {self.part.dtype} of {self.part.hidden} features")
        return x

    def _share(self, given: Any) -> Share:
        """What a reference stands for; the same value for the same reference."""
        key = json.dumps(given)
        if key not in self._shares:
            if not (isinstance(given, list) and len(given) == 2 and all(isinstance(g, list) for g in given)):
                raise MessageError("a share is adapters and terms")
            adapters = tuple(self._weighed(pair) for pair in given[0])
            terms, states = [], {}
            for entry in given[1]:
                term, state = self._term(entry)
                terms.append(term)
                if state is not None and isinstance(term.gate, AbstractGate):
                    states[term.gate] = state
            self._shares[key] = Share(adapters, tuple(terms), states)
            if len(self._shares) > _SHARES:
                self._shares.popitem(last=False)
        self._shares.move_to_end(key)
        return self._shares[key]

    def _weighed(self, pair: Any) -> tuple[Adapter, float]:
        if not (isinstance(pair, list) and len(pair) == 2 and type(pair[1]) in (int, float)):
            raise MessageError("an adapter of a share is its hash and its weight")
        adapter = self._thing(pair[0])
        if not isinstance(adapter, Adapter):
            raise MessageError("a share of adapters that are not here")
        return adapter, float(pair[1])

    def _term(self, entry: Any) -> tuple[Term, State | None]:
        if not (isinstance(entry, list) and len(entry) == 4 and entry[2] in ("sum", "average")):
            raise MessageError("a term is a bank, who assigns, and how its adapters join")
        bank, gate = self._thing(entry[0]), self._thing(entry[1])
        if not isinstance(bank, Bank):
            raise MessageError("a term of a bank that is not here")
        if isinstance(gate, Rows | Tokens | TopK | Dense):
            return Term(bank, gate, entry[2]), None
        if not isinstance(gate, Thing):
            raise MessageError("a term whose gate is not here")
        state = self._thing(entry[3]) if entry[3] else None
        if state is not None and not isinstance(state, Mapping):
            raise MessageError("a term whose decisions are not here")
        return Term(bank, self._gate(gate, entry[0], bank), entry[2]), state

    def _gate(self, gate: Thing, key: str, bank: Bank) -> AbstractGate:
        if (gate.key, key) not in self._gates:
            others = [made for (one, _), made in self._gates.items() if one == gate.key]
            alike = others if gate.tensors else []  # one with numbers of its own serves every bank
            made = alike[0] if alike else to_gate(gate, bank).to(self.part.device)
            self._gates[gate.key, key] = made
        return self._gates[gate.key, key]

    def _thing(self, key: Any) -> Any:
        return self._things.get(key) if isinstance(key, str) else None

    def _decided(self, call: Message) -> dict[AbstractGate, State]:
        """What gates have decided at the stages before; of those that act here too."""
        found: dict[AbstractGate, State] = {}
        for place, entry in enumerate(call.fields.get("decided", [])):
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                raise MessageError("decisions are those of a gate")
            start = f"d{place}."
            tensors = {n.removeprefix(start): t for n, t in call.tensors.items() if n.startswith(start)}
            state = to_state(Thing("state", {"layers": entry[1]}, tensors))
            found |= {gate: state for (key, _), gate in self._gates.items() if key == entry[0]}
        return found

    def _told(self, decided: States) -> tuple[dict[str, Any], dict[str, Tensor]]:
        told, tensors = [], {}
        keys = {gate: key for (key, _), gate in self._gates.items()}
        for gate, state in decided.items():
            if gate in keys and state:
                thing = of_state(state)
                tensors |= {f"d{len(told)}.{name}": tensor for name, tensor in thing.tensors.items()}
                told.append([keys[gate], thing.fields["layers"]])
        return ({"decided": told} if told else {}), tensors

    def _put(self, call: Message) -> Message:
        """Keep a thing, and say which slot an adapter has.

        A worker that comes later puts it there too: the order in which adapters add up decides the last bit.
        """
        fields = call.fields.get("fields")
        if not isinstance(fields, dict):
            raise MessageError("a thing has values")
        thing = Thing(call.text("sort"), fields, call.tensors)
        key = call.text("key")
        if thing.key != key:
            raise MessageError("a thing does not have the hash that it was sent with")
        if key in self._things:
            return Message({})
        device = self.part.device
        match thing.sort:
            case "adapter":
                adapter = to_adapter(thing)
                asked = call.whole("slot", _SLOTS) if "slot" in call.fields else None
                slot = self.pool.pin(adapter, asked)
                self._things[key] = adapter
                return Message({"slot": slot})
            case "bank":
                self._things[key] = to_bank(thing).to(device)
            case "assignment":
                self._things[key] = to_assignment(thing)
            case "state":
                self._things[key] = to_state(thing)
            case "gate":
                self._things[key] = thing
            case _:
                raise MessageError(f"a stage keeps no {thing.sort!r:.40}")
        return Message({})

    def _drop(self, key: str) -> None:
        thing = self._things.pop(key, None)
        if thing is None:
            return
        self._shares = OrderedDict((told, share) for told, share in self._shares.items() if key not in told)
        self._gates = {keys: gate for keys, gate in self._gates.items() if key not in keys}
        if isinstance(thing, Adapter):
            self.pool.unpin(thing)
            if not self.pool.pinned(thing):
                self.pool.evict(thing)


def _codec(call: Message) -> str:
    return str(call.fields.get("codec", "none"))


def _refusal(error: WeftError) -> Message:
    return Message({"error": type(error).__name__, "text": reason_of(error)})
