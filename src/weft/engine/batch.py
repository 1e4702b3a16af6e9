"""Many prompts as few batches: ordered by length, with the mixture following its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from weft.errors import ConfigError, ShapeError
from weft.types import Assignment, Dense, Fixed, Mixture, Rows, Term, Tokens, TopK


def batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions of the prompts, longest first, `batch_size` at a time.

    Like lengths share a batch, which saves padding; a batch too large for memory fails at once.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size should be 1 or more, got {batch_size}")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def check_rows(mixture: Mixture, rows: int) -> None:
    """Raise ShapeError when a fixed assignment is made for another number of rows; one row serves all."""
    for term in mixture.terms:
        if isinstance(term.gate, Fixed) and _rows(term.gate.assignment) not in (1, rows):
            raise ShapeError(
                f"the mixture assigns adapters to {_rows(term.gate.assignment)} rows, this batch has {rows}"
            )


def take_rows(mixture: Mixture, index_B: Int[Tensor, " B"]) -> Mixture:
    """The mixture for the batch rows at `index_B`, in that order.

    An assignment of one row serves every row and stays as it is; so does a gate that looks at hidden states,
    since it holds nothing of a row. Raises ShapeError for a row that the assignment does not have.
    """
    return Mixture(tuple(_take_term(term, index_B) for term in mixture.terms))


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
    if not isinstance(term.gate, Fixed) or _rows(term.gate.assignment) == 1:
        return term
    rows = _rows(term.gate.assignment)
    if index_B.numel() and not 0 <= int(index_B.min()) <= int(index_B.max()) < rows:
        raise ShapeError(f"rows run from 0 to {rows - 1} in this mixture, asked for {index_B.tolist()}")
    return replace(term, gate=Fixed(_take(term.gate.assignment, index_B)))


def _rows(assignment: Assignment) -> int:
    match assignment:
        case Rows(index) | Tokens(index) | TopK(index) | Dense(index):
            return index.shape[0]


def _take(assignment: Assignment, index_B: Tensor) -> Assignment:
    def pick(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, index_B.to(tensor.device))

    match assignment:
        case Rows(index_B=index):
            return Rows(pick(index))
        case Tokens(index_BT=index):
            return Tokens(pick(index))
        case TopK(index_BTk=index, weight_BTk=weight):
            return TopK(pick(index), pick(weight))
        case Dense(weight=weight):
            return Dense(pick(weight))


def _shift_term(term: Term, padding_B: Sequence[int]) -> Term:
    if not isinstance(term.gate, Fixed):
        return term

    def shift(tensor: Tensor) -> Tensor:
        last = tensor.shape[1] - 1
        columns_T = torch.arange(last + 1 + max(padding_B), device=tensor.device)
        padding_B1 = torch.tensor(padding_B, device=tensor.device)[:, None]
        rows_B1 = torch.arange(len(padding_B), device=tensor.device)[:, None]
        rows_B1 = rows_B1 if tensor.shape[0] > 1 else torch.zeros_like(rows_B1)
        return tensor[rows_B1, (columns_T - padding_B1).clamp(0, last)]

    match term.gate.assignment:
        case Tokens(index):
            return replace(term, gate=Fixed(Tokens(shift(index))))
        case TopK(index, weight):
            return replace(term, gate=Fixed(TopK(shift(index), shift(weight))))
        case Dense(weight) if weight.dim() == 3:
            return replace(term, gate=Fixed(Dense(shift(weight))))
        case _:
            return term
