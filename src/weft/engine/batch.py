"""A mixture of a batch as the shares of its rows, and prompts in an order that saves padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from weft.errors import ConfigError, ShapeError
from weft.host.share import take_assignment
from weft.rows import Share
from weft.types import AbstractGate, Assignment, Dense, Mixture, Rows, Term, Tokens, TopK


def batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions of the prompts, longest first, `batch_size` at a time.

    Like lengths share a batch, which saves padding; a batch too large for memory fails at once. Raises
    ConfigError for a batch size below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size should be 1 or more, got {batch_size}")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def check_rows(mixture: Mixture, rows: int) -> None:
    """Raise ShapeError when an assignment is made for another number of rows; one row serves all."""
    for term in mixture.terms:
        if not isinstance(term.gate, AbstractGate) and _rows(term.gate) not in (1, rows):
            raise ShapeError(
                f"the mixture assigns adapters to {_rows(term.gate)} rows, this batch has {rows}"
            )


def take_rows(mixture: Mixture, index_B: Int[Tensor, " B"]) -> Mixture:
    """The mixture for the batch rows at `index_B`, in that order.

    An assignment of one row serves every row and stays as it is; so does a gate that looks at hidden states,
    since it holds nothing of a row. Raises ShapeError for a row that the assignment does not have.
    """
    return Mixture(tuple(_take_term(term, index_B) for term in mixture.terms))


def shares_of(mixture: Mixture | None, rows: int, padding_B: Sequence[int] | None = None) -> list[Share]:
    """Each row's share of a mixture.

    Per-token assignments speak of a row's own tokens, from its first, or with `padding_B` of columns that
    begin with so much padding. Raises ShapeError for a mixture made for another number of rows.
    """
    if mixture is None:
        return [Share()] * rows
    check_rows(mixture, rows)
    if all(isinstance(term.gate, AbstractGate) for term in mixture.terms):
        return [Share(terms=mixture.terms)] * rows
    shares = []
    for row in range(rows):
        part = take_rows(mixture, torch.tensor([row]))
        skip = 0 if padding_B is None else padding_B[row]
        shares.append(Share(terms=tuple(_skip(term, skip) for term in part.terms)))
    return shares


def part_of(mixture: Mixture | None, index: Sequence[int], lengths: Sequence[int]) -> Mixture | None:
    """The mixture of all prompts, for a left-padded batch of some of them; `lengths` are those of all.

    A host counts positions in columns. Here a per-token assignment speaks of a prompt's own tokens, from its
    first, so that it means the same in every batch.
    """
    if mixture is None:
        return None
    taken = take_rows(mixture, torch.tensor(index))
    longest = max(lengths[i] for i in index)
    padding_B = [longest - lengths[i] for i in index]
    return Mixture(tuple(_shift_term(term, padding_B) for term in taken.terms))


def _take_term(term: Term, index_B: Tensor) -> Term:
    if isinstance(term.gate, AbstractGate) or _rows(term.gate) == 1:
        return term
    rows = _rows(term.gate)
    if index_B.numel() and not 0 <= int(index_B.min()) <= int(index_B.max()) < rows:
        raise ShapeError(f"rows run from 0 to {rows - 1} in this mixture, asked for {index_B.tolist()}")
    return replace(term, gate=take_assignment(term.gate, index_B))


def _rows(assignment: Assignment) -> int:
    match assignment:
        case Rows(index) | Tokens(index) | TopK(index) | Dense(index):
            return index.shape[0]


def _skip(term: Term, columns: int) -> Term:
    """A term of one row without the first columns of a per-token assignment; the last one stays."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[:, min(columns, tensor.shape[1] - 1) :]

    return _with_tokens(term, cut) if columns else term


def _shift_term(term: Term, padding_B: Sequence[int]) -> Term:
    def shift(tensor: Tensor) -> Tensor:
        last = tensor.shape[1] - 1
        columns_T = torch.arange(last + 1 + max(padding_B), device=tensor.device)
        padding_B1 = torch.tensor(padding_B, device=tensor.device)[:, None]
        rows_B1 = torch.arange(len(padding_B), device=tensor.device)[:, None]
        rows_B1 = rows_B1 if tensor.shape[0] > 1 else torch.zeros_like(rows_B1)
        return tensor[rows_B1, (columns_T - padding_B1).clamp(0, last)]

    return _with_tokens(term, shift)


def _with_tokens(term: Term, change: Callable[[Tensor], Tensor]) -> Term:
    """A term whose per-token assignment has every tensor changed; another term as it is."""
    match term.gate:
        case Tokens(index):
            return replace(term, gate=Tokens(change(index)))
        case TopK(index, weight):
            return replace(term, gate=TopK(change(index), change(weight)))
        case Dense(weight) if weight.dim() == 3:
            return replace(term, gate=Dense(change(weight)))
        case _:
            return term
