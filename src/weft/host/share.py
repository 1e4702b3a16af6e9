"""The shares of a batch's rows, put together: what the sites of a host run while those rows are there.

Rows under adapters of the pool become one term over the adapters that any of them uses; rows under a bank
of their own become one term per bank; rows under one gate are asked together. What comes out is made once,
when a row joins, leaves or changes, and serves every step until the next change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from weft.host.pool import Pool
from weft.rows import Share
from weft.types import (
    UNDECIDED,
    AbstractGate,
    Assignment,
    Bank,
    Decision,
    Dense,
    Rows,
    State,
    Term,
    Tokens,
    TopK,
)

_SIDE_BY_SIDE = 512
"""K * R up to which a decode step runs all adapters on every row: two GEMMs that read each factor once."""


_PLACES = 2
"""Places per row up to which a decode step runs each adapter on its own rows alone; those left over idle."""
_SORTED = 128
"""K * R up to which that is slower, where the rows have to be put in the adapters' order first."""


class SideBySide(NamedTuple):
    """The adapters of a decode step side by side, M = K R, and how each row weighs them."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    """Module path -> (a_IM, b_MO)."""
    scale_BM: Tensor | None
    """None where there is one adapter, on every row, at weight 1."""


class Apart(NamedTuple):
    """The adapters of a decode step, each on its own rows, at C places: M = K C."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    """Module path -> (a_KIR, b_KRO)."""
    places: tuple[Tensor, Tensor, Tensor] | None
    """Whose token is at every place, where each row's is, which are the base's; None: row i at place i."""


@dataclass(frozen=True, eq=False)
class Joined:
    """A term over some rows of a batch."""

    term: Term
    rows_N: Tensor | None = None
    """Which rows of the batch, where a gate speaks of some alone; None for all."""
    state: State = field(default_factory=lambda: UNDECIDED)
    """What its gate decided on their prompts."""
    decode: SideBySide | Apart | None = None
    """The same in the form that a step of one token per row takes, where that is faster."""


def join(shares: Sequence[Share], pool: Pool | None, device: torch.device) -> tuple[Joined, ...]:
    """One term per bank and gate for all rows; raises what `Pool.put` raises."""
    joined = []
    if any(share.adapters for share in shares):
        assert pool is not None
        joined.append(_pooled(shares, pool, device))
    groups: dict[tuple[int, int, str], list[tuple[int, Term]]] = {}
    for row, share in enumerate(shares):
        for place, term in enumerate(share.terms):
            gate = id(term.gate) if isinstance(term.gate, AbstractGate) else -place - 1
            groups.setdefault((id(term.bank), gate, term.combine), []).append((row, term))
    for members in groups.values():
        rows, (first, *_) = [row for row, _ in members], [term for _, term in members]
        gate = first.gate
        if isinstance(gate, AbstractGate):
            states = [shares[row].states.get(gate, {}) for row in rows]
            some = None if rows == list(range(len(shares))) else torch.tensor(rows, device=device)
            joined.append(Joined(first, some, stack_states(states)))
        else:
            given = [term.gate for _, term in members if not isinstance(term.gate, AbstractGate)]
            together = stack_assignments(given, rows, len(shares), len(first.bank))
            joined.append(Joined(Term(first.bank, together, first.combine)))
    return tuple(joined)


def _pooled(shares: Sequence[Share], pool: Pool, device: torch.device) -> Joined:
    """The adapters of the pool that any row uses, and every row's weights of them."""
    slots = weighed_slots(shares, pool)
    used = sorted({slot for row in slots for slot, _ in row})
    paths = {site.path for share in shares for adapter, _ in share.adapters for site in adapter.factors}
    sites = [site for site in pool.bank.a if site.path in paths]
    # Slots that lie close together are run in place: a few unused ones cost less than a copy of the others.
    dense = used[-1] < 2 * len(used)
    first = list(range(used[-1] + 1)) if dense else used
    bank = pool.front(used[-1] + 1, sites) if dense else pool.select(used, sites)
    place = {slot: k for k, slot in enumerate(first)}
    placed = [[(place[slot], weight) for slot, weight in row] for row in slots]
    weight_BK = weight_matrix(placed, len(first)).to(device)
    rank = max(adapter.rank for share in shares for adapter, _ in share.adapters)
    index = one_each(placed)
    if index is not None:
        term = Term(bank, Rows(torch.tensor(index, device=device)))
        decode = _alone(bank, index[0], rank) if len(set(index)) == 1 else _apart(bank, index, rank)
    else:
        term, decode = Term(bank, Dense(weight_BK)), None
    return Joined(term, decode=decode or _side_by_side(bank, weight_BK, rank))


def weighed_slots(shares: Sequence[Share], pool: Pool) -> list[list[tuple[int, float]]]:
    """For every row the slots of its adapters and their weights; raises what `Pool.put` raises."""
    slots = iter(pool.put_all([adapter for share in shares for adapter, _ in share.adapters]))
    return [[(next(slots), weight) for _, weight in share.adapters] for share in shares]


def weight_matrix(slots: Sequence[Sequence[tuple[int, float]]], count: int) -> Tensor:
    """Every row's weight of each of `count` slots: [B, K]."""
    weight_BK = torch.zeros(len(slots), count)
    for row, weighed in enumerate(slots):
        for slot, weight in weighed:
            weight_BK[row, slot] += weight
    return weight_BK


def one_each(slots: Sequence[Sequence[tuple[int, float]]]) -> list[int] | None:
    """The slot of every row, -1 for the base; None where a row has several, or another weight than 1."""
    if any(len(row) > 1 or any(weight != 1 for _, weight in row) for row in slots):
        return None
    return [row[0][0] if row else -1 for row in slots]


def _alone(bank: Bank, place: int, rank: int) -> SideBySide:
    """One adapter on every row."""
    factors = {s.path: (bank.a[s].mT[place, :, :rank], bank.b[s].mT[place, :rank]) for s in bank.a}
    return SideBySide(factors, None)


def _apart(bank: Bank, index: Sequence[int], rank: int) -> Apart | None:
    """Views of the pool and the places of rows; None where adapters side by side are faster."""
    take_M, back_B, base_M = places_of(index, len(bank))
    if take_M.tolist() == list(range(len(index))) and not base_M.any():
        places = None
    elif len(bank) * rank <= _SORTED or len(take_M) > _PLACES * len(index):
        return None
    else:
        device = next(iter(bank.a.values())).device
        places = take_M.to(device), back_B.to(device), base_M.to(device)
    return Apart({s.path: (bank.a[s].mT[:, :, :rank], bank.b[s].mT[:, :rank]) for s in bank.a}, places)


def places_of(index: Sequence[int], adapters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows by the adapter that acts on them, as `kernels.apart` takes them; -1 is the base.

    As many places for every adapter as one of them needs; rows of the base take some that are left.
    """
    rows_K = [[row for row, k in enumerate(index) if k == place] for place in range(adapters)]
    base = [row for row, place in enumerate(index) if place < 0]
    for row in base:
        min(rows_K, key=len).append(row)
    most = max(map(len, rows_K))
    at = {row: place * most + i for place, rows in enumerate(rows_K) for i, row in enumerate(rows)}
    take_M = [row for rows in rows_K for row in rows + [0] * (most - len(rows))]
    base_M = torch.zeros(len(take_M), dtype=torch.bool)
    base_M[[at[row] for row in base]] = True
    return torch.tensor(take_M), torch.tensor([at[row] for row in range(len(index))]), base_M


def _side_by_side(bank: Bank, weight_BK: Tensor, rank: int) -> SideBySide | None:
    """Views of the pool, or copies where it has room for larger ranks; None where there is too much of it."""
    if len(bank) * rank > _SIDE_BY_SIDE:
        return None
    factors = {
        s.path: (bank.a[s][:, :rank].flatten(0, 1).T, bank.b[s].mT[:, :rank].flatten(0, 1)) for s in bank.a
    }
    dtype = next(iter(bank.a.values())).dtype
    return SideBySide(factors, weight_BK.to(dtype).repeat_interleave(rank, 1))


def stack_assignments(
    given: Sequence[Assignment], rows: Sequence[int], count: int, adapters: int
) -> Assignment:
    """Assignments of one row each as one for `count` rows; those that are not named are the base."""
    kinds = {type(one) for one in given}
    if kinds == {Rows}:
        index_B = torch.full((count,), -1, dtype=torch.long, device=_tensor(given[0]).device)
        index_B[list(rows)] = torch.cat([one.index_B for one in given if isinstance(one, Rows)])
        return Rows(index_B)
    weights = [_dense(one, adapters) for one in given]  # each [1, T, K]
    longest = max(weight.shape[1] for weight in weights)
    weight_BTK = weights[0].new_zeros(count, longest, adapters)
    for row, weight in zip(rows, weights, strict=True):
        weight_BTK[row, : weight.shape[1]] = weight[0]
        weight_BTK[row, weight.shape[1] :] = weight[0, -1]
    return Dense(weight_BTK[:, 0]) if longest == 1 else Dense(weight_BTK)


def stack_states(states: Sequence[State]) -> State:
    """What a gate decided for some rows, one row each, as its decisions for all of them."""
    joined: dict[int, Decision] = {}
    for layer in states[0]:
        parts = [state[layer] for state in states]
        assignments = [part.assignment for part in parts]
        joined[layer] = Decision(
            parts[0].place, torch.cat([part.logits for part in parts]), _cat(assignments)
        )
    return joined


def take_assignment(assignment: Assignment, index_B: Tensor) -> Assignment:
    """The rows at `index_B` of an assignment, in that order."""

    def pick(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, index_B.to(tensor.device))

    match assignment:
        case Rows(index):
            return Rows(pick(index))
        case Tokens(index):
            return Tokens(pick(index))
        case TopK(index, weight):
            return TopK(pick(index), pick(weight))
        case Dense(weight):
            return Dense(pick(weight))


def take_state(state: State, row: int) -> State:
    """One row of what a gate decided."""
    return {
        layer: Decision(
            decision.place,
            decision.logits[row : row + 1],
            take_assignment(decision.assignment, torch.tensor([row])),
        )
        for layer, decision in state.items()
    }


def _cat(given: Sequence[Assignment]) -> Assignment:
    """Assignments of one kind, one after another."""
    match given[0]:
        case Rows():
            return Rows(torch.cat([one.index_B for one in given if isinstance(one, Rows)]))
        case Tokens():
            return Tokens(torch.cat([one.index_BT for one in given if isinstance(one, Tokens)]))
        case TopK():
            both = [one for one in given if isinstance(one, TopK)]
            return TopK(torch.cat([o.index_BTk for o in both]), torch.cat([o.weight_BTk for o in both]))
        case Dense():
            return Dense(torch.cat([one.weight for one in given if isinstance(one, Dense)]))


def _tensor(assignment: Assignment) -> Tensor:
    match assignment:
        case Rows(tensor) | Tokens(tensor) | TopK(tensor) | Dense(tensor):
            return tensor


def _dense(assignment: Assignment, adapters: int) -> Tensor:
    """An assignment of one row as a weight for every adapter: [1, T, K]."""
    match assignment:
        case Dense(weight):
            return weight[:, None] if weight.dim() == 2 else weight
        case Rows(index):
            index_BTk, weight_BTk = index[:, None, None], None
        case Tokens(index):
            index_BTk, weight_BTk = index[..., None], None
        case TopK(index, weight):
            index_BTk, weight_BTk = index, weight
    weight = torch.ones(index_BTk.shape, device=index_BTk.device) if weight_BTk is None else weight_BTk
    spread = weight.new_zeros(*index_BTk.shape[:2], adapters + 1)
    index_BTk = torch.where(index_BTk < 0, adapters, index_BTk).long()
    return spread.scatter_add(2, index_BTk, weight)[..., :adapters]
