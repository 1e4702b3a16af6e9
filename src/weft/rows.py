"""What a decode loop speaks of: rows, what acts on them, and who reads and changes them.

A row is one text that is being written. All of it is values and interfaces; `engine/loop.py` is the loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.errors import ShapeError
from weft.types import AbstractGate, Adapter, Mixture, Site, State, Term


@dataclass(frozen=True, eq=False)
class Share:
    """What acts on one row: its part of a mixture, as a value. The default is the base alone."""

    adapters: tuple[tuple[Adapter, float], ...] = ()
    """Adapters and their weights; the host keeps them in its pool, by content."""
    terms: tuple[Term, ...] = ()
    """Banks under a gate, or under an assignment of one row."""
    states: Mapping[AbstractGate, State] = field(default_factory=lambda: MappingProxyType({}))
    """What the gates decided on this row's prompt."""

    @classmethod
    def of(cls, *adapters: Adapter, weights: Sequence[float] | None = None) -> Share:
        """Adapters that act on the row, each at weight 1 or as told. Raises ShapeError for other weights."""
        weights = [1.0] * len(adapters) if weights is None else [float(w) for w in weights]
        if len(weights) != len(adapters):
            raise ShapeError(f"{len(weights)} weights for {len(adapters)} adapters")
        return cls(tuple(zip(adapters, weights, strict=True)))

    def __add__(self, other: Share) -> Share:
        """Both at once: contributions add."""
        states = {**self.states, **other.states}
        return Share(self.adapters + other.adapters, self.terms + other.terms, states)


@dataclass(frozen=True, eq=False)
class Request:
    """What a row is begun from."""

    id: str
    prompt_ids: tuple[int, ...]
    share: Share = field(default_factory=Share)
    tenant: str = ""
    """Who asks; what was read for one is never reused for another."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What the loop reports after a token of a row."""

    id: str
    """Of the request."""
    token_id: int
    position: int
    """Index of the token in the row's text, prompt included."""
    hidden_H: Float[Tensor, " H"] | None
    """The last layer's state that the token was chosen from; None unless the controller wants it."""
    ids: Sequence[int]
    """The row's token ids so far, prompt included; not to be changed."""
    cached: int
    """How many of them the row's cache holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What happens to one row before its next token."""

    share: Share | None = None
    """What acts from the next token on; None keeps what acts."""
    reread: bool = False
    """Read what the cache holds again under the new share; else the cache stays as it is."""
    evict: int = 0
    """How many tokens leave the front of the cache, after any reread."""
    force: tuple[int, ...] = ()
    """Tokens that come next whatever the model would say."""
    silent: bool = False
    """Whether the token that was just reported is kept out of the text."""
    note: str = ""
    """What a reader of a trace should know of it."""


class AbstractCache(ABC):
    """What a host has read of some rows, each at its own length. Order: row i of a step is row i here."""

    @property
    @abstractmethod
    def lengths(self) -> Sequence[int]:
        """How many tokens of each row it holds."""

    @property
    @abstractmethod
    def starts(self) -> Sequence[int]:
        """How many tokens of each row were cut from its front: the position of the first one held."""

    @abstractmethod
    def join(self, other: AbstractCache, rows: Sequence[int]) -> None:
        """Add some rows of another cache of the same host, after its own."""

    @abstractmethod
    def leave(self, row: int) -> None:
        """Drop one row; the last row takes its place."""

    @abstractmethod
    def cut(self, row: int, count: int) -> None:
        """Drop the first `count` tokens of one row. Positions of the others stay. Raises ShapeError."""


class Stepped(NamedTuple):
    """What one step says of every row."""

    logits_BV: Tensor
    hidden_BH: Tensor | None
    """The state that the output head read; None unless captured."""


class AbstractHost(ABC):
    """A frozen network with sites, local or spread over machines."""

    sites: tuple[Site, ...]
    fingerprint: str
    tokenizer: Any
    name: str
    generation_config: Any = None
    """How Hugging Face says that the network writes: what ends a text, and how tokens are drawn."""

    @property
    @abstractmethod
    def window(self) -> int | None:
        """Most positions that the network was made for; None where there is no limit."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """How many token ids there are."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where token ids and logits lie."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the states that it computes."""

    @abstractmethod
    def forward(
        self,
        ids_BT: Int[Tensor, "B T"],
        mixture: Mixture | None = None,
        *,
        mask_BT: Int[Tensor, "B T"] | None = None,
        cache: Any = None,
    ) -> Any:
        """Run whole sequences under a mixture; returns Hugging Face's output with `.logits` [B, T, V]."""

    @abstractmethod
    def new_cache(self) -> AbstractCache:
        """A cache of no rows."""

    @abstractmethod
    def hold(self, share: Share) -> None:
        """Keep the adapters of a share ready until it is released. Raises PoolFullError."""

    @abstractmethod
    def release(self, share: Share) -> None:
        """Let the adapters of a share be evicted again."""

    @abstractmethod
    def embed(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
        """Input embeddings, which gates decide on."""

    @abstractmethod
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

        `counts[i]` of the T tokens of row i count; those after them are padding (default: all count). A cache
        of no rows begins them, at the positions `starts` (default 0). Returns logits [B, V] in float32, and
        where captured the state that the output head read, [B, H].

        Raises ShapeError for other numbers of rows or another host's cache, and what `forward` raises.
        """


class AbstractController(ABC):
    """Changes rows while they are written. It keeps nothing of a row itself: states go in and out."""

    wants_hidden: bool = False
    """Whether events should carry the last hidden state."""
    evicts: bool = False
    """Whether it keeps rows within the window by itself, so that they may go on for ever."""

    @abstractmethod
    def start(self, request: Request) -> tuple[Share, Any]:
        """What acts on a row to begin with, and the row's state; called before its prompt is read."""

    def skips(self, request: Request) -> int:
        """How many tokens of the prompt's front `start` has taken in; no cache reads them. Default: 0."""
        return 0

    def fires(self, token_id: int, cached: int) -> bool:
        """Whether a token is worth an event, told the token and how many the cache holds. Default: each."""
        return True

    @abstractmethod
    def observe(self, states: Sequence[Any], events: Sequence[Event]) -> Sequence[tuple[Any, Change | None]]:
        """New states and changes of the rows that fired in one step, in their order."""
