"""What a demo asks of one hypernetwork and its base, and what they answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from weft.cli.shared.model import open_host, open_hypernetwork

_MOST_TOKENS = 24


@dataclass(frozen=True)
class Ask:
    """A description and a text that it is applied to."""

    description: str
    input: str
    expected: str | None
    """None where nobody knows: the words are the reader's own."""


@dataclass(frozen=True)
class Act:
    """The asks for one hypernetwork."""

    hypernetwork: str
    base: str
    described: bool
    """Whether the base that answers without an adapter reads the description in its prompt."""
    asks: tuple[Ask, ...]

    def cut(self, count: int) -> Act:
        """The first so many descriptions, with one input each."""
        first = {ask.description: ask for ask in reversed(self.asks)}
        kept = list(dict.fromkeys(ask.description for ask in self.asks))[:count]
        return replace(self, asks=tuple(first[text] for text in kept))


@dataclass(frozen=True)
class Answer:
    """One line of the page."""

    hypernetwork: str
    description: str
    input: str
    base: str
    """Without an adapter."""
    adapted: str
    expected: str | None


@dataclass(frozen=True)
class Played:
    """All answers of an act, and what they took."""

    act: Act
    answers: tuple[Answer, ...]
    adapters: int
    rank: int
    sites: int
    acts: bool
    """False where the adapters change nothing: the hypernetwork was not trained."""
    loading: float
    making: float
    answering: float
    """Seconds, like the two before it."""


def play(act: Act) -> Played:
    """Load base and hypernetwork, make all adapters in one forward, and answer all asks in one batch.

    Raises what loading raises.
    """
    start = time.perf_counter()

    import torch

    from weft.engine import Engine
    from weft.types import Description, Mixture

    # On CPUs float32 is the faster one, and what the hypernetworks were trained on.
    host = open_host(act.base, dtype="float32")
    hyper = open_hypernetwork(act.hypernetwork, host=host)
    loaded = time.perf_counter()
    texts = list(dict.fromkeys(ask.description for ask in act.asks))
    with torch.no_grad():
        bank = hyper.generate([Description(text) for text in texts])
    made = time.perf_counter()
    # One batch holds them all: every ask without an adapter, and under its own.
    alone = dict.fromkeys((ask.description if act.described else "", ask.input) for ask in act.asks)
    jobs = [(None, *key) for key in alone] + [(texts.index(a.description), "", a.input) for a in act.asks]
    said = Engine(host).generate(
        [_prompt(described, text) for _, described, text in jobs],
        mixture=Mixture.rows(bank, [k for k, _, _ in jobs]),
        max_new_tokens=_MOST_TOKENS,
        batch_size=len(jobs),
    )
    answered = dict(zip(jobs, said, strict=True))
    answers = tuple(
        Answer(
            hypernetwork=act.hypernetwork,
            description=ask.description,
            input=ask.input,
            base=answered[None, ask.description if act.described else "", ask.input],
            adapted=answered[texts.index(ask.description), "", ask.input],
            expected=ask.expected,
        )
        for ask in act.asks
    )
    return Played(
        act=act,
        answers=answers,
        adapters=len(bank),
        rank=next(iter(bank.a.values())).shape[1],
        sites=len(bank.sites),
        acts=any(bool(b_KOR.any()) for b_KOR in bank.b.values()),
        loading=loaded - start,
        making=made - loaded,
        answering=time.perf_counter() - made,
    )


def _prompt(described: str, text: str) -> list[dict[str, str]]:
    system = [{"role": "system", "content": described}] if described else []
    return [*system, {"role": "user", "content": text}]
