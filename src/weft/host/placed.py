"""Adapters that lie elsewhere than the base: the tokens that chose them travel there, the results come back.

A bank can be cut into parts, each a term of its own on any device, all under the one gate of the whole. At
a site, with T_p the tokens whose adapter lies in part p (by weights: all tokens):

    y[T_p] = W x[T_p] + back(sum_k w_k B_k A_k send(x[T_p]))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.errors import ConfigError
from weft.host.plan import PerRow, PerToken, Plan, Weighted, check_columns, check_rows
from weft.types import Term


@dataclass(frozen=True, eq=False)
class Placed(Term):
    """A part of a bank: adapter k here is `first + k` of those that the gate chooses from.

    The parts of a bank share one gate, which is asked once for all of them. Raises ConfigError for an
    average, since the parts of one do not add up.
    """

    first: int = 0

    def __post_init__(self) -> None:
        """Refuse what does not add up."""
        if self.combine != "sum":
            raise ConfigError("a bank in parts sums its adapters, it cannot average them")


@dataclass(frozen=True, eq=False)
class Trip:
    """Who of a batch goes to one part, and what the part does with them."""

    units: int
    """What the batch is a list of here: B rows, or B * T tokens."""
    index_N: Int[Tensor, " N"] | None
    """Those that go, on the device that they come from; None is the whole batch."""
    plan: Plan
    """For those that go, where they arrive."""

    @property
    def nobody(self) -> bool:
        """Whether no row and no token chose this part."""
        return self.index_N is not None and not len(self.index_N)


def make_trip(
    plan: Plan, first: int, count: int, *, rows: int, columns: int, here: torch.device, there: torch.device
) -> Trip:
    """Cut the adapters `first` to `first + count` out of a plan for so many rows and columns.

    Holds nothing that autograd saves, as plans do. Raises ShapeError for a plan of another size, ConfigError
    for several weighted adapters per token.
    """
    match plan:
        case PerRow():
            check_rows(len(plan.indices), rows)
            indices = plan.indices if len(plan.indices) == rows else plan.indices * rows
            going = [row for row, k in enumerate(indices) if first <= k < first + count]
            own_N = torch.tensor([indices[row] - first for row in going], dtype=torch.long, device=there)
            return Trip(rows, torch.tensor(going, dtype=torch.long, device=here), PerRow(own_N))
        case PerToken(index_BTk, None) if index_BTk.shape[2] == 1:
            check_columns(index_BTk, rows, columns)
            own_M = index_BTk.expand(rows, columns, 1).flatten() - first
            index_N = ((own_M >= 0) & (own_M < count)).nonzero()[:, 0]
            own_N11 = own_M.index_select(0, index_N)[:, None, None].to(there)
            return Trip(rows * columns, index_N.to(here), PerToken(own_N11, None))
        case PerToken():
            raise ConfigError("a bank in parts takes one adapter per token, or weights for all")
        case Weighted(weight_BTK):
            return Trip(rows, None, Weighted(weight_BTK[..., first : first + count].to(there)))


def send(
    x_BTI: Float[Tensor, "B T I"], trip: Trip, device: torch.device
) -> Float[Tensor, "N M I"] | Float[Tensor, "B T I"]:
    """Those that go to a part, on its device: N rows of T tokens, N tokens as rows of one, or all."""
    if trip.index_N is None:
        return x_BTI.to(device)
    x_UMI = x_BTI.reshape(trip.units, -1, x_BTI.shape[-1])
    return x_UMI.index_select(0, trip.index_N).to(device)


def add_back(output: Tensor, y: Tensor, trip: Trip) -> Tensor:
    """The output of a site with what a part made of its tokens added in their places."""
    dtype = torch.promote_types(output.dtype, y.dtype)
    y = y.to(output.device)
    if trip.index_N is None:
        return (output + y.reshape(output.shape)).to(output.dtype)
    output_UMO = output.reshape(trip.units, -1, output.shape[-1])
    added_UMO = output_UMO.to(dtype).index_add(0, trip.index_N, y.to(dtype))
    return added_UMO.to(output.dtype).reshape(output.shape)
