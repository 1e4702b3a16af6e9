"""What a row says as clients see it: text in whole characters, and how likely its tokens were."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weft.engine import Spoken
from weft.engine.stop import Decode, Text, cut, finish, grow, showable, stop_at
from weft.engine.trace import Traced, traced


class Likely(NamedTuple):
    """A token with its log-probability, and those of the most likely ones at its place."""

    token_id: int
    logprob: float | None
    """None for the first token of a prompt, before which nothing was read."""
    top: tuple[tuple[int, float], ...]


class Piece(NamedTuple):
    """What one step added to one text."""

    text: str
    token_id: int | None
    """None where the text ends with no token."""
    likely: Likely | None
    reason: str | None
    """`stop` or `length` where the text has ended."""
    traced: tuple[Traced, ...] = ()
    """Of the tokens before this one, since what happened after a token is known with the next."""


class Writing:
    """One text that grows; used by the scheduler's thread alone. `trace` tells what acted on its tokens."""

    def __init__(
        self,
        decode: Decode,
        stop: Sequence[str],
        stop_ids: Collection[int],
        top: int | None,
        *,
        trace: bool = False,
    ) -> None:
        self._decode, self._stop, self._stop_ids, self._top = decode, stop, stop_ids, top
        self._text, self._shown = Text(), 0
        self._trace, self._before = trace, None

    def ends(self, token_id: int) -> bool:
        """Whether the text ends with a token that is no stop id: with a stop string."""
        self._text = grow(self._text, token_id, self._decode)
        return stop_at(self._text.settled, self._stop) is not None

    def piece(self, spoken: Spoken) -> Piece:
        """What a token adds."""
        if spoken.reason is None:
            ready = showable(self._text.settled, self._stop)
        else:
            ready = cut(finish(self._text, self._decode), self._stop)
        text, self._shown = ready[self._shown :], max(self._shown, len(ready))
        likely = None
        if self._top is not None and spoken.token_id not in self._stop_ids and not spoken.silent:
            likely = likely_of(spoken.logits_V, spoken.token_id, self._top)
        return Piece(text, spoken.token_id, likely, spoken.reason, self._traced(spoken))

    def _traced(self, spoken: Spoken) -> tuple[Traced, ...]:
        if not self._trace:
            return ()
        before, self._before = self._before, spoken._replace(logits_V=spoken.logits_V[:0])
        news = () if before is None else (traced(before, spoken),)
        return news if spoken.reason is None else (*news, traced(spoken, None))


def likely_of(logits_V: Tensor, token_id: int, top: int) -> Likely:
    """Log-probabilities of a token and of the `top` most likely ones, before sampling changed them."""
    logprob_V = logits_V.float().log_softmax(-1)
    best = logprob_V.topk(min(top, logprob_V.shape[-1])) if top else None
    pairs = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Likely(token_id, float(logprob_V[token_id]), pairs)


@torch.no_grad()
def likely_prompt(logits_TV: Tensor, ids: Sequence[int], top: int) -> list[Likely]:
    """The same for the tokens of a prompt, from the logits at its own places."""
    rest = [likely_of(logits_V, token, top) for logits_V, token in zip(logits_TV[:-1], ids[1:], strict=True)]
    return [Likely(ids[0], None, ()), *rest]
