"""The adapters that requests may name, and what acts on a row under a name."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor

from weft.embed import SentenceEncoder
from weft.engine.request import Chooser, under
from weft.errors import ConfigError, MissingFileError, UnknownNameError
from weft.files import is_name, nearest
from weft.host import fitted
from weft.host.pool import content
from weft.hyper import HyperNetwork
from weft.hyper.context import ContextNetwork
from weft.rows import AbstractController, AbstractHost, Share
from weft.serve.names import Base, Blend, Made, Named, Planted, Routed, Shifted, Spec, Stored
from weft.store import Store
from weft.types import Adapter, Cue, Description

V = TypeVar("V")
log = logging.getLogger("weft.serve")

_KEPT = 256
"""Most adapters from descriptions and stores that are remembered; the least recently used one goes."""


class Acting(NamedTuple):
    """What acts on a row, and by what names."""

    share: Share
    adapters: tuple[tuple[str, float], ...]
    """Names and weights, for people; a tree, a gate or a shift has weight 1."""
    controller: AbstractController | None = None
    """What changes the row while it is written; it brings the share that the row begins with."""

    def usage(self, sha256: Callable[[Adapter], str]) -> list[dict[str, Any]]:
        """What acted, with the SHA-256 of each adapter's content."""
        named = [{"name": name, "weight": weight} for name, weight in self.adapters if weight]
        if len(self.share.adapters) != len(named):
            return named
        pairs = zip(named, self.share.adapters, strict=True)
        return [{**one, "sha256": sha256(adapter)} for one, (adapter, _) in pairs]


class Shelf:
    """Adapters by name, fitted to one host. An adapter that is replaced goes on under the rows that have it.

    Its methods may be called from any thread. `stores` are folders by name, `choosers` libraries by name,
    `trees` what their leaves do to a row, `shifts` what changes a row while it is written. `reader` makes
    adapters of documents. At most `room` adapters lie on the shelf.
    """

    def __init__(
        self,
        host: AbstractHost,
        *,
        hypernetwork: HyperNetwork | None = None,
        reader: ContextNetwork | None = None,
        stores: Mapping[str, Path] | None = None,
        choosers: Mapping[str, Chooser] | None = None,
        trees: Mapping[str, Share] | None = None,
        shifts: Mapping[str, AbstractController] | None = None,
        room: int = 1024,
    ) -> None:
        self.host = host
        self.hypernetwork = hypernetwork
        self.reader = reader
        self.room = room
        self.stores = dict(stores or {})
        self.choosers = dict(choosers or {})
        self.trees = dict(trees or {})
        self.shifts = dict(shifts or {})
        self._adapters: dict[str, Adapter] = {}
        self._kept: OrderedDict[object, Adapter] = OrderedDict()
        self._sums: WeakKeyDictionary[Adapter, str] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._encoder: SentenceEncoder | None = None
        self._networks = threading.Lock()  # one at a time: encoders and hypernetworks are modules with modes

    @property
    def names(self) -> tuple[str, ...]:
        """What `/v1/models` lists, beside the base."""
        with self._lock:
            own = sorted(self._adapters)
        kinds = {"route": self.choosers, "tree": self.trees, "shift": self.shifts}
        return (*own, *(f"{kind}:{name}" for kind, there in kinds.items() for name in there))

    def put(self, name: str, adapter: Adapter) -> Adapter:
        """Take an adapter in under a name, in place of the one that had it; the adapter as it fits the host.

        Raises ConfigError for what is no name and where the shelf is full, and what `fitted` raises.
        """
        check_adapter_name(name)
        adapter = replace(fitted(adapter, self.host), name=name)
        with self._lock:
            if name not in self._adapters and len(self._adapters) >= self.room:
                raise ConfigError(f"the shelf holds {self.room} adapters, which is all it may; remove one")
            self._adapters[name] = adapter
        return adapter

    def get(self, name: str) -> Adapter:
        """The adapter of a name. Raises UnknownNameError."""
        with self._lock:
            if name not in self._adapters:
                raise UnknownNameError(
                    f"no adapter {name!r:.80}{nearest(name, self._adapters)}; GET /v1/models lists all"
                )
            return self._adapters[name]

    def remove(self, name: str) -> None:
        """Take an adapter off the shelf; rows that have it go on. Raises UnknownNameError."""
        self.get(name)
        with self._lock:
            self._adapters.pop(name, None)

    def sha256(self, adapter: Adapter) -> str:
        """SHA-256 of an adapter's content, computed once."""
        with self._lock:
            known = self._sums.get(adapter)
        if known is None:
            known = content(adapter)
            with self._lock:
                self._sums[adapter] = known
        return known

    def make(self, cue: Cue) -> Adapter:
        """An adapter from a cue. Raises ConfigError without a hypernetwork, and what `adapt` raises."""
        if self.hypernetwork is None:
            raise ConfigError("this server makes no adapters; start it with a hypernetwork (--with NAME)")
        with self._networks:
            return fitted(self.hypernetwork.adapt(cue), self.host)

    def embed(self, texts: Sequence[str]) -> tuple[Float[Tensor, "N D"], int]:
        """Vectors of texts by Weft's sentence encoder, and how many tokens it read. Raises what it raises."""
        with self._networks:
            if self._encoder is None:
                self._encoder = SentenceEncoder()
            vectors = self._encoder.encode([Description(text) for text in texts])
            return vectors, self._encoder.count_tokens(texts)

    def acting(self, spec: Spec, request: str) -> Acting:
        """What acts on a row under a name; `request` is the text that libraries are routed by.

        Raises UnknownNameError for what is not there, and what making and loading raise.
        """
        match spec:
            case Base():
                return Acting(Share(), ())
            case Named() | Stored():
                name, adapter = self._one(spec)
                return Acting(under(self.host, [adapter]), ((name, 1.0),))
            case Made(text):
                adapter = self._remember(spec, lambda: self.make(Description(text)))
                return Acting(under(self.host, [adapter]), ((f"gen:{text}", 1.0),))
            case Blend(parts):
                named = [self._one(part) for part, _ in parts]
                weights = [weight for _, weight in parts]
                share = under(self.host, [adapter for _, adapter in named], weights)
                return Acting(share, tuple((name, w) for (name, _), w in zip(named, weights, strict=True)))
            case Routed(library):
                chooser = _known("library", library, self.choosers)
                with self._networks:
                    share = chooser.share(request)
                chosen = tuple((adapter.name, weight) for adapter, weight in share.adapters)
                return Acting(share, chosen or ((f"route:{library}", 1.0),) if share.terms else chosen)
            case Planted(tree):
                return Acting(_known("tree", tree, self.trees), ((f"tree:{tree}", 1.0),))
            case Shifted(shift):
                return Acting(Share(), ((f"shift:{shift}", 1.0),), _known("shift", shift, self.shifts))

    def _one(self, spec: Named | Stored) -> tuple[str, Adapter]:
        if isinstance(spec, Named):
            return spec.name, self.get(spec.name)
        if not spec.store and len(self.stores) > 1:
            raise UnknownNameError(f"several stores are open; name one: store:{next(iter(self.stores))}/...")
        store = spec.store or next(iter(self.stores), "")
        folder = _known("store", store, self.stores)
        try:
            with Store(folder) as opened:
                commit = opened.show(spec.name, rev=spec.revision).commit
                key = Stored(store, spec.name, commit)
                adapter = self._remember(key, lambda: fitted(opened.load(key.name, rev=commit), self.host))
        except UnknownNameError as error:  # its message names the folder, which clients need not know
            raise UnknownNameError(f"no {spec.name} at {spec.revision} in the store {store}") from error
        except MissingFileError as error:
            log.warning("the store %s cannot be read: %s", store, error)
            raise UnknownNameError(f"the store {store} cannot be read") from error
        return f"store:{store}/{spec.name}@{commit}", adapter

    def _remember(self, key: object, make: Callable[[], Adapter]) -> Adapter:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        adapter = make()
        with self._lock:
            self._kept[key] = adapter
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return adapter


def check_adapter_name(name: str) -> None:
    """Raise ConfigError for what cannot name an adapter on the shelf."""
    if not is_name(name) or name == "base":
        raise ConfigError(f"{name!r:.80} cannot name an adapter; use letters, digits and . _ - +")


def _known(kind: str, name: str, there: Mapping[str, V]) -> V:
    if name not in there:
        raise UnknownNameError(
            f"no {kind} {name!r:.80} here{nearest(name, there)}; {_listed(kind, list(there))}"
        )
    return there[name]


def _listed(kind: str, names: Sequence[str]) -> str:
    return f"there are {', '.join(names)}" if names else f"the server was started without --{kind}"
