"""An assignment made ready for the tokens of one forward, and its contribution at one site.

Plans hold views and indices alone, nothing that autograd saves. So one plan serves every site of a forward,
and gradient checkpointing may recompute a layer with plans that were made outside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.errors import ShapeError
from weft.host import kernels
from weft.host.choose import choose_per_row, choose_per_token
from weft.types import Assignment, Dense, Rows, Tokens, TopK


@dataclass(frozen=True, eq=False)
class PerRow:
    """One adapter per batch row; -1 is the base."""

    index_B: Int[Tensor, " B"]

    @cached_property
    def indices(self) -> list[int]:
        """The same on the CPU: here a forward waits for the device, once."""
        return self.index_B.tolist()

    def spread(self, columns: int) -> PerToken:
        """The same choice for each of a row's tokens."""
        if columns not in self._spread:
            self._spread[columns] = PerToken(self.index_B[:, None, None].expand(-1, columns, -1), None)
        return self._spread[columns]

    @cached_property
    def _spread(self) -> dict[int, PerToken]:
        return {}


@dataclass(frozen=True, eq=False)
class PerToken:
    """k adapters per token; -1 is the base. Without weights they are all 1."""

    index_BTk: Int[Tensor, "B T k"]
    weight_BTk: Float[Tensor, "B T k"] | None

    def sorted(self, rows: int, columns: int, count: int) -> tuple[Tensor, Tensor]:
        """Choices ordered by adapter, and where each adapter's stretch ends; for `kernels.grouped`.

        The base is sorted to the first adapter, where its weight of 0 makes it nothing.
        """
        key = (rows, columns, count)
        if key not in self._sorted:
            index_M = self.index_BTk.expand(rows, columns, -1).flatten().clamp(min=0)
            ends_K = torch.bincount(index_M, minlength=count).cumsum(0).to(torch.int32)
            self._sorted[key] = index_M.argsort(stable=True), ends_K
        return self._sorted[key]

    @cached_property
    def _sorted(self) -> dict[tuple[int, int, int], tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def has_base(self) -> bool:
        """Whether any choice is the base."""
        return bool((self.index_BTk < 0).any())


@dataclass(frozen=True, eq=False)
class Weighted:
    """A weight for every adapter; one row serves all rows, one column all columns."""

    weight_BTK: Float[Tensor, "B T K"]


Plan = PerRow | PerToken | Weighted


def make_plan(assignment: Assignment, columns: int, offset: int | Tensor) -> Plan:
    """Cut the columns `offset` to `offset + columns` out of an assignment; offsets may be per row."""
    match assignment:
        case Rows(index_B):
            return PerRow(index_B)
        case Tokens(index_BT):
            return PerToken(_columns(index_BT, columns, offset)[..., None], None)
        case TopK(index_BTk, weight_BTk):
            return PerToken(_columns(index_BTk, columns, offset), _columns(weight_BTk, columns, offset))
        case Dense(weight) if weight.dim() == 2:
            return Weighted(weight[:, None])
        case Dense(weight):
            return Weighted(_columns(weight, columns, offset))


def _columns(tensor: Tensor, columns: int, offset: int | Tensor) -> Tensor:
    """Columns past the end repeat the last one. Neither narrow, expand nor cat keep tensors for backward."""
    length = tensor.shape[1]
    if isinstance(offset, Tensor):
        at_BT = (offset[:, None] + torch.arange(columns, device=offset.device)).clamp(max=length - 1)
        row_B1 = torch.arange(len(offset), device=offset.device)[:, None]
        return tensor[row_B1 if len(tensor) > 1 else torch.zeros_like(row_B1), at_BT]
    inside = max(0, min(columns, length - offset))
    if inside == columns:
        return tensor.narrow(1, offset, columns)
    last = tensor[:, -1:].expand(-1, columns - inside, *tensor.shape[2:])
    return torch.cat([tensor.narrow(1, offset, inside), last], 1) if inside else last


def contribution(
    x_BTI: Float[Tensor, "B T I"],
    a_KRI: Float[Tensor, "K R I"],
    b_KOR: Float[Tensor, "K O R"],
    plan: Plan,
    combine: str,
) -> Float[Tensor, "B T O"] | None:
    """What a bank adds to the output of a site; None where every row is the base.

    Raises ShapeError when the plan is for another number of rows, columns or adapters.
    """
    match plan:
        case PerRow():
            return _per_row(x_BTI, a_KRI, b_KOR, plan)
        case PerToken():
            check_columns(plan.index_BTk, *x_BTI.shape[:2])
            if combine == "average" and plan.weight_BTk is not None:
                return kernels.average(x_BTI, a_KRI, b_KOR, _dense(plan, len(a_KRI), x_BTI))
            return _per_token(x_BTI, a_KRI, b_KOR, plan)
        case Weighted(weight_BTK):
            check_columns(weight_BTK, *x_BTI.shape[:2])
            if weight_BTK.shape[2] != len(a_KRI):
                raise ShapeError(f"a gate gives {weight_BTK.shape[2]} weights for {len(a_KRI)} adapters")
            kernel = kernels.average if combine == "average" else kernels.concat
            return kernel(x_BTI, a_KRI, b_KOR, weight_BTK.to(x_BTI.dtype))


def check_rows(given: int, rows: int) -> None:
    """Raise ShapeError unless a plan is for these rows; one row serves all."""
    if given not in (1, rows):
        raise ShapeError(f"the mixture assigns adapters to {given} rows, this batch has {rows}")


def check_columns(given: Tensor, rows: int, columns: int) -> None:
    """Raise ShapeError unless a plan is for these rows and columns; one serves all."""
    check_rows(given.shape[0], rows)
    if given.shape[1] not in (1, columns):
        raise ShapeError(f"a gate assigns adapters to {given.shape[1]} tokens, a site sees {columns}")


def _per_row(x_BTI: Tensor, a_KRI: Tensor, b_KOR: Tensor, plan: PerRow) -> Tensor | None:
    rows, columns, _ = x_BTI.shape
    count, rank, _ = a_KRI.shape
    indices = plan.indices
    check_rows(len(indices), rows)
    if indices.count(indices[0]) == len(indices):
        first = indices[0]
        return None if first < 0 else kernels.single(x_BTI, a_KRI[first], b_KOR[first])
    kernel = choose_per_row(
        rank=rank,
        rows=rows,
        columns=columns,
        grad=torch.is_grad_enabled(),
        device=x_BTI.device,
        dtype=x_BTI.dtype,
    )
    if kernel == "grouped":
        return _grouped(x_BTI, a_KRI, b_KOR, plan.spread(columns))
    if indices == list(range(count)):
        return kernels.bmm(x_BTI, a_KRI, b_KOR)
    has_base = -1 in indices
    index_B = plan.index_B.clamp(min=0) if has_base else plan.index_B
    base_B = plan.index_B < 0 if has_base else None
    return kernels.bmm(x_BTI, a_KRI.index_select(0, index_B), b_KOR.index_select(0, index_B), base_B)


def _per_token(x_BTI: Tensor, a_KRI: Tensor, b_KOR: Tensor, plan: PerToken) -> Tensor:
    rows, columns, _ = x_BTI.shape
    count, rank, _ = a_KRI.shape
    kernel = choose_per_token(
        count=count,
        rank=rank,
        tokens=rows * columns,
        k=plan.index_BTk.shape[2],
        device=x_BTI.device,
        dtype=x_BTI.dtype,
    )
    if kernel == "grouped":
        return _grouped(x_BTI, a_KRI, b_KOR, plan)
    return kernels.concat(x_BTI, a_KRI, b_KOR, _dense(plan, count, x_BTI))


def _grouped(x_BTI: Tensor, a_KRI: Tensor, b_KOR: Tensor, plan: PerToken) -> Tensor:
    rows, columns, _ = x_BTI.shape
    order_M, ends_K = plan.sorted(rows, columns, len(a_KRI))
    weight_BTk = plan.weight_BTk
    if plan.has_base:
        here_BTk = plan.index_BTk >= 0
        weight_BTk = here_BTk.to(x_BTI.dtype) if weight_BTk is None else weight_BTk * here_BTk
    weight_M = None
    if weight_BTk is not None:
        weight_M = weight_BTk.to(x_BTI.dtype).expand(rows, columns, -1).flatten().index_select(0, order_M)
    y_NO = kernels.grouped(x_BTI.flatten(0, 1), a_KRI, b_KOR, order_M, ends_K, weight_M)
    return y_NO.unflatten(0, (rows, columns))


def _dense(plan: PerToken, count: int, x_BTI: Tensor) -> Float[Tensor, "B T K"]:
    """Its choices as a weight for every adapter; the base falls into a column that is cut off."""
    index_BTk = plan.index_BTk.long()
    index_BTk = torch.where(index_BTk < 0, count, index_BTk)
    weight_BTk = x_BTI.new_ones(()) if plan.weight_BTk is None else plan.weight_BTk.to(x_BTI.dtype)
    zeros = x_BTI.new_zeros(*index_BTk.shape[:2], count + 1)
    return zeros.scatter_add(2, index_BTk, weight_BTk.expand(index_BTk.shape))[..., :count]
