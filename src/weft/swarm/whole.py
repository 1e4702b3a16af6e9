"""Whole sequences through all stages, without a cache and differentiable: what training asks of a host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.swarm.remote import Reading
from weft.swarm.seat import Seat
from weft.swarm.things import of_assignment, of_bank
from weft.types import AbstractGate, Mixture, Site


def read_whole(
    seats: Sequence[Seat],
    sites: Sequence[Sequence[Site]],
    ids_BT: Tensor,
    mixture: Mixture | None,
    *,
    mask_B1TT: Tensor,
    positions_BT: Tensor,
    chosen_BT: Tensor | None,
) -> Tensor:
    """The logits of all places, [B * T, V], or of those that are chosen, [N, V].

    `sites` are those of each seat. In the backward every stage computes its layers again; a worker that dies
    in between is replaced, and the gradients are the same. Raises ConfigError for gates that look at states.
    """
    x = ids_BT
    for place, seat in enumerate(seats):
        fields, factors, tensors = _terms({site.path for site in sites[place]}, mixture)
        tensors |= {"positions": positions_BT, "mask": mask_B1TT}
        if place == len(seats) - 1 and chosen_BT is not None:
            tensors["chosen"] = chosen_BT
        reading = Reading(seat, fields, tensors, list(factors), is_first=not place)
        x = reading(x, list(factors.values()))
    return x


def causal(rows: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """The mask [B, 1, T, T] under which a token sees itself and those before it."""
    lowest = torch.full((tokens, tokens), torch.finfo(dtype).min, dtype=dtype)
    return lowest.triu(1)[None, None].expand(rows, 1, tokens, tokens)


def _terms(
    paths: set[str], mixture: Mixture | None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """The terms of a mixture at one stage: values, factors by name, and other tensors."""
    entries: list[dict[str, Any]] = []
    factors: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for term in mixture.terms if mixture is not None else ():
        if isinstance(term.gate, AbstractGate):
            raise ConfigError("gates that look at states are not trained over stages; use a local host")
        bank = of_bank(term.bank, paths)
        if bank is None:
            continue
        assigned, start = of_assignment(term.gate), f"{len(entries)}."
        factors |= {start + name: tensor for name, tensor in bank.tensors.items()}
        tensors |= {start + name: tensor for name, tensor in assigned.tensors.items()}
        entries.append({**bank.fields, **assigned.fields, "combine": term.combine})
    return {"terms": entries}, factors, tensors
