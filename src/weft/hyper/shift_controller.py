"""Shifts while a row is written: the model says the control token, other adapters act from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.adapters import concat, truncate
from weft.errors import ConfigError, ShapeError
from weft.hyper.shift import Acting, Shift, Shifted
from weft.rows import AbstractController, Change, Event, Request, Share
from weft.types import Adapter, Factors

NEGLIGIBLE = 0.01
"""A delta of less weight than this is dropped, so that old ones do not pile up."""


@dataclass(frozen=True, eq=False)
class ShiftState:
    """What the controller knows of a row."""

    acting: Acting
    """Of one row."""
    share: Share
    delta: Adapter | None = None
    """What was generated so far, decayed and cut to the budget."""
    shifts: int = 0


class ShiftController(AbstractController):
    """Hears the control token, and shifts the rows that said it, all of them in one forward of the network.

    `library` are the adapters that the network blends, in its order; `speaker` acts throughout. A row may
    shift `max_shifts` times; after that its control tokens change nothing, which the change notes. Generated
    deltas are added exactly and cut back to rank `budget`. `reread` has the cache read again under the new
    adapters. The control token stays out of the text unless `audible`.

    Raises ConfigError for another number of adapters than the network knows, or an option out of range.
    """

    wants_hidden = True

    def __init__(
        self,
        network: Shift,
        speaker: Adapter,
        library: Sequence[Adapter],
        *,
        control: int,
        budget: int = 8,
        max_shifts: int = 64,
        reread: bool = False,
        audible: bool = False,
    ) -> None:
        if len(library) != network.count:
            raise ConfigError(f"the shift network blends {network.count} adapters, got {len(library)}")
        if budget < 1 or max_shifts < 0:
            raise ConfigError(f"budget is 1 or more and max_shifts 0 or more, got {budget} and {max_shifts}")
        self.network = network
        self.speaker = speaker
        self.library = tuple(library)
        self.control = control
        self.budget = budget
        self.max_shifts = max_shifts
        self.reread = reread
        self.audible = audible

    def start(self, request: Request) -> tuple[Share, ShiftState]:
        """The speaker alone."""
        share = Share.of(self.speaker)
        return share, ShiftState(self.network.nothing(1), share)

    def fires(self, token_id: int, cached: int) -> bool:
        """At the control token."""
        return token_id == self.control

    @torch.no_grad()
    def observe(
        self, states: Sequence[ShiftState], events: Sequence[Event]
    ) -> list[tuple[ShiftState, Change | None]]:
        """The shifts of all rows that said the control token in one step."""
        refused = Change(silent=not self.audible, note=f"no shift: the bound of {self.max_shifts} is reached")
        answers: list[tuple[ShiftState, Change | None]] = [(state, refused) for state in states]
        going = [i for i, state in enumerate(states) if state.shifts < self.max_shifts]
        if not going:
            return answers
        hidden_BH = torch.stack([_hidden(events[i]) for i in going])
        acting = Acting(
            torch.cat([states[i].acting.weight_BK for i in going]),
            torch.cat([states[i].acting.memory_BD for i in going]),
        )
        shifted = self.network(self.network.vector(hidden_BH), acting)
        for row, i in enumerate(going):
            state = self._after(states[i], shifted, row)
            changed = state.share is not states[i].share
            share = state.share if changed else None
            note = "" if changed else "no change"
            answers[i] = (
                state,
                Change(share, reread=self.reread and changed, silent=not self.audible, note=note),
            )
        return answers

    def _after(self, state: ShiftState, shifted: Shifted, row: int) -> ShiftState:
        """The state of a row after its shift; the share is the old one where it says the same."""
        acting = Acting(*(tensor[row : row + 1] for tensor in shifted.acting))
        delta = self._delta(state.delta, shifted, row)
        weighed = [
            (adapter, w) for adapter, w in zip(self.library, acting.weight_BK[0].tolist(), strict=True) if w
        ]
        weighed = [(self.speaker, 1.0), *weighed, *([] if delta is None else [(delta, 1.0)])]
        share = state.share if weighed == list(state.share.adapters) else Share(tuple(weighed))
        return ShiftState(acting, share, delta, state.shifts + 1)

    def _delta(self, old: Adapter | None, shifted: Shifted, row: int) -> Adapter | None:
        parts: list[tuple[Adapter, float]] = []
        decay, amount = float(shifted.decay_B[row]), float(shifted.amount_B[row])
        if old is not None and decay >= NEGLIGIBLE:
            parts.append((old, decay))
        if shifted.delta is not None and amount:
            fresh = {
                site: Factors(a_BRI[row].clone(), shifted.delta.b[site][row] * amount, 1.0)
                for site, a_BRI in shifted.delta.a.items()
            }
            if any(bool(f.b_OR.any()) for f in fresh.values()):
                parts.append((Adapter(fresh, base=self.speaker.base, name="shift"), 1.0))
        if not parts:
            return None
        if len(parts) == 1 and parts[0][1] == 1 and parts[0][0].rank <= self.budget:
            return parts[0][0]
        joined = concat([adapter for adapter, _ in parts], [weight for _, weight in parts])
        return replace(truncate(joined, self.budget), name="shift")


def _hidden(event: Event) -> Tensor:
    if event.hidden_H is None:
        raise ShapeError("a shift needs the state that its token was chosen from; this host gives none")
    return event.hidden_H
