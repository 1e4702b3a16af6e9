"""Activated LoRA: a fixed adapter that acts from its invocation tokens on, and leaves what was before alone.

Greenewald et al. 2025 (arXiv 2504.12397), as PEFT runs it: the last place in the prompt where the tokens of
`alora_invocation_tokens` stand is where the adapter begins, the invocation itself included; a prompt without
them is the base's. It is a shift without a vector: the token says that, and the adapter is always the same.

Departs from PEFT in: an invocation that the model writes itself begins the adapter too. The base has read the
tokens of a longer one by then, so what the cache holds is read again; logits are PEFT's over the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.errors import ConfigError
from weft.host import Host, fitted
from weft.rows import AbstractController, Change, Event, Request, Share
from weft.types import Adapter, Bank, Term, Tokens


def invocation_of(adapter: Adapter) -> tuple[int, ...]:
    """The invocation tokens of an adapter's PEFT config; empty for an ordinary one."""
    return tuple(adapter.peft_config.get("alora_invocation_tokens") or ())


class Activated(AbstractController):
    """Begins one adapter at its invocation tokens. A row's state is whether it has begun.

    Raises ConfigError for an adapter without invocation tokens or with some outside the vocabulary, and what
    `weft.host.fitted` raises.
    """

    def __init__(self, host: Host, adapter: Adapter) -> None:
        self.tokens = invocation_of(adapter)
        if not self.tokens:
            raise ConfigError(f"adapter {adapter.name} has no alora_invocation_tokens; it acts everywhere")
        outside = [token for token in self.tokens if not 0 <= token < host.vocab_size]
        if outside:
            raise ConfigError(
                f"adapter {adapter.name} is invoked by token {outside[0]}, "
                f"the vocabulary has {host.vocab_size}"
            )
        self.bank = Bank.stack([fitted(adapter, host)]).to(host.device, host.dtype)

    def start(self, request: Request) -> tuple[Share, bool]:
        """The adapter from the last invocation of the prompt on, or the base."""
        begin = _last(request.prompt_ids, self.tokens)
        return (Share(), False) if begin is None else (self._share(begin), True)

    def fires(self, token_id: int, cached: int) -> bool:
        """At the last token of an invocation."""
        return token_id == self.tokens[-1]

    def observe(self, states: Sequence[bool], events: Sequence[Event]) -> list[tuple[bool, Change | None]]:
        """Begin in rows that have just written an invocation and had none in their prompt."""
        length = len(self.tokens)
        answers: list[tuple[bool, Change | None]] = []
        for begun, event in zip(states, events, strict=True):
            if begun or tuple(event.ids[-length:]) != self.tokens:
                answers.append((begun, None))
            else:
                share = self._share(len(event.ids) - length)
                answers.append((True, Change(share, reread=length > 1)))
        return answers

    def _share(self, begin: int) -> Share:
        index_BT = torch.full((1, begin + 1), -1)
        index_BT[0, begin] = 0
        device = next(iter(self.bank.a.values())).device
        return Share(terms=(Term(self.bank, Tokens(index_BT.to(device))),))


def _last(ids: Sequence[int], tokens: Sequence[int]) -> int | None:
    """Where the last occurrence of some tokens begins."""
    length = len(tokens)
    starts = range(len(ids) - length, -1, -1)
    return next((start for start in starts if tuple(ids[start : start + length]) == tuple(tokens)), None)
