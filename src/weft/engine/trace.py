"""What acted on every token of a text, and what happened in between: of any controller, told by the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.engine.loop import Loop, Spoken
from weft.engine.sampling import Sampling
from weft.rows import AbstractController, AbstractHost, Request, Share
from weft.types import AbstractGate

Acting = tuple[tuple[str, float], ...]
"""Names and weights of adapters."""


@dataclass(frozen=True, slots=True)
class Traced:
    """One token that was written."""

    token_id: int
    acting: Acting
    """What it was chosen under; a gate stands by the name of its kind, at weight 1."""
    silent: bool
    """Whether it is kept out of the text."""
    events: tuple[str, ...]
    """What happened after it: `shift`, `evicted N`, and what the controller says of it."""


def trace(
    host: AbstractHost,
    prompts: Sequence[Sequence[int]],
    controller: AbstractController | None = None,
    *,
    shares: Sequence[Share] | None = None,
    sampling: Sequence[Sampling] | None = None,
    stop_ids: Sequence[int] = (),
) -> list[list[Traced]]:
    """Write all prompts in one loop, and tell of every token, stop ids too. Raises what the loop raises."""
    loop = Loop(host)
    for i, ids in enumerate(prompts):
        loop.submit(
            Request(str(i), tuple(ids), shares[i] if shares else Share()),
            sampling=sampling[i] if sampling else None,
            controller=controller,
            stop_ids=stop_ids,
        )
    heard: list[list[Spoken]] = [[] for _ in prompts]
    for spoken in loop.run():
        heard[int(spoken.id)].append(spoken._replace(logits_V=spoken.logits_V[:0]))
    return [_told(spoken) for spoken in heard]


def trace_values(tokenizer: Any, traced: Sequence[Traced]) -> list[dict[str, Any]]:
    """One line per token, JSON-ready: text, id, what acted, and what happened after it."""
    return [
        {
            "token": tokenizer.decode([one.token_id]),
            "token_id": one.token_id,
            "acting": [{"adapter": name, "weight": weight} for name, weight in one.acting],
            "silent": one.silent,
            "events": list(one.events),
        }
        for one in traced
    ]


def traced(said: Spoken, after: Spoken | None) -> Traced:
    """One token with what happened after it: what the next one was chosen under is other than its own."""
    acting, events = _acting(said.share), []
    if after is not None and _acting(after.share) != acting:
        events.append("shift")
    if after is not None and after.start > said.start:
        events.append(f"evicted {after.start - said.start}")
    if said.note:
        events.append(said.note)
    return Traced(said.token_id, acting, said.silent, tuple(events))


def _told(spoken: Sequence[Spoken]) -> list[Traced]:
    return [traced(said, after) for said, after in zip(spoken, [*spoken[1:], None], strict=True)]


def _acting(share: Share) -> Acting:
    gates = [
        (type(term.gate).__name__ if isinstance(term.gate, AbstractGate) else "+".join(term.bank.names), 1.0)
        for term in share.terms
    ]
    return (*((adapter.name, round(weight, 4)) for adapter, weight in share.adapters), *gates)
