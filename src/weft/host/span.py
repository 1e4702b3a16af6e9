"""What the sites of a host read while it runs: the mixture of one forward, made ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from weft.errors import ShapeError
from weft.host.dropout import Dropout
from weft.host.kernels import apart, side_by_side
from weft.host.placed import Placed, Trip, add_back, make_trip, send
from weft.host.plan import Plan, contribution, make_plan
from weft.host.share import Apart, SideBySide
from weft.types import UNDECIDED, AbstractGate, Assignment, Dense, Rows, Site, State, Term, Tokens, TopK

StackedFactors = Mapping[str, tuple[Tensor, Tensor]]
"""Module path -> (a_KRI, b_KOR) of one bank."""

Plans = dict[tuple[Assignment, int, int], Plan]
"""Of assignments made before the forward, by rows and columns: one plan serves all sites."""


@dataclass(frozen=True, eq=False)
class Acting:
    """One term in force."""

    term: Term
    factors: StackedFactors
    rows_N: Tensor | None = None
    """The rows of the batch that it speaks of; None for all."""
    decode: SideBySide | Apart | None = None
    """Another form of the same for one token per row."""


@dataclass(frozen=True, eq=False)
class Span:
    """The terms in force for one forward, and the part of the sequence that it reads."""

    terms: tuple[Acting, ...]
    states: dict[AbstractGate, State] = field(default_factory=dict)
    """What each gate has decided; every site that decides adds to it."""
    rows: int | None = None
    """B of the token ids; None where the module reads no ids."""
    columns: int | None = None
    """T of the token ids."""
    offset: int | Tensor = 0
    """Tokens that were read before, of all rows alike or of each: [B]."""
    plans: Plans = field(default_factory=dict)
    """Of assignments per row; they serve other forwards of the same rows too."""
    dropout: Dropout | None = None
    """What training drops of the inputs of A."""
    _token_plans: Plans = field(default_factory=dict)
    _trips: dict[tuple[Term, Assignment, int, int], Trip] = field(default_factory=dict)
    """To parts of banks: one serves all sites that follow one decision."""

    def change(self, site: Site, x: Tensor, output: Tensor) -> Tensor:
        """The output of a site with the contributions of all terms; `output` itself where there are none."""
        asked: dict[AbstractGate, tuple[Assignment, Plan]] = {}
        away: list[tuple[Tensor, Trip]] = []
        for acting in self.terms:
            term = acting.term
            if site.path not in acting.factors:
                continue
            if acting.decode is not None and self.columns == 1 and x.shape[:-1].numel() == self.rows:
                output = _decoded(acting.decode, site, x, output)
                continue
            a_KRI, b_KOR = acting.factors[site.path]
            x_BTI = self._tokens(x)
            if acting.rows_N is not None:
                x_BTI = x_BTI.index_select(0, acting.rows_N)
            assignment, plan = self._asked(term, site, x_BTI, asked)
            if self.dropout is not None:
                x_BTI = self.dropout.drop(x_BTI, site)
            dtype = _compute_dtype(a_KRI, x)
            trip = None
            if isinstance(term, Placed):
                trip = self._trip(term, assignment, plan, x_BTI, a_KRI)
                if trip.nobody:
                    continue
                x_BTI, plan = send(x_BTI, trip, a_KRI.device), trip.plan
            y_BTO = contribution(x_BTI.to(dtype), a_KRI.to(dtype), b_KOR.to(dtype), plan, term.combine)
            if y_BTO is None:
                continue
            if trip is not None:
                away.append((y_BTO, trip))
            elif acting.rows_N is not None:
                added = output.to(torch.promote_types(output.dtype, y_BTO.dtype))
                output = added.index_add(0, acting.rows_N, y_BTO.to(added.dtype)).to(output.dtype)
            else:
                output = (output + y_BTO.reshape(output.shape)).to(output.dtype)
        # Brought back when all have been sent, so that devices work side by side.
        for y_NMO, trip in away:
            output = add_back(output, y_NMO, trip)
        return output

    def _asked(
        self, term: Term, site: Site, x_BTI: Tensor, asked: dict[AbstractGate, tuple[Assignment, Plan]]
    ) -> tuple[Assignment, Plan]:
        """Who acts on these tokens. A gate that several terms share is asked once."""
        if not isinstance(term.gate, AbstractGate):
            return term.gate, self._plan(term.gate, x_BTI, site)
        if term.gate not in asked:
            state = self.states.get(term.gate, UNDECIDED)
            assignment, self.states[term.gate] = term.gate.assign(x_BTI, site, state)
            # A gate that looks at tokens speaks of those that it was shown, not of the whole sequence.
            asked[term.gate] = assignment, make_plan(assignment, x_BTI.shape[1], 0)
        return asked[term.gate]

    def _tokens(self, x: Tensor) -> Tensor:
        """The input of a linear module, whatever its shape, as rows of tokens.

        Where nobody can tell which row a token belongs to (an expert's share of them), all are one row: then
        an assignment works when it is the same for every row, or made by a gate that looks at the tokens.
        """
        if self.rows is None or self.columns is None:
            rows = x.shape[0] if x.dim() > 1 else 1
        elif x.shape[:-1].numel() == self.rows * self.columns or (x.dim() > 2 and x.shape[0] == self.rows):
            rows = self.rows
        else:
            rows = 1
        return x.reshape(rows, -1, x.shape[-1])

    def _plan(self, assignment: Assignment, x_BTI: Tensor, site: Site) -> Plan:
        rows, columns = x_BTI.shape[:2]
        given_rows, given_columns = _extent(assignment)
        plans = self.plans if given_columns == 1 else self._token_plans
        key = (assignment, rows, columns if given_columns > 1 else 1)
        if key not in plans:
            if self.rows not in (None, rows) and given_rows > 1:
                raise ShapeError(f"{site.path} sees tokens without their rows; give all rows one assignment")
            if self.columns not in (None, columns) and given_columns > 1:
                raise ShapeError(f"{site.path} sees {columns} of {self.columns} tokens; assign per row")
            plans[key] = make_plan(assignment, columns, self.offset)
        return plans[key]

    def _trip(self, term: Placed, assignment: Assignment, plan: Plan, x_BTI: Tensor, a_KRI: Tensor) -> Trip:
        rows, columns = x_BTI.shape[:2]
        key = (term, assignment, rows, columns)
        if key not in self._trips:
            self._trips[key] = make_trip(
                plan,
                term.first,
                len(a_KRI),
                rows=rows,
                columns=columns,
                here=x_BTI.device,
                there=a_KRI.device,
            )
        return self._trips[key]


def add_mixture(
    span: ContextVar[Span | None], site: Site
) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    """A forward hook that changes the output of a site by the span in force."""

    def add(_: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        current = span.get()
        return None if current is None else current.change(site, inputs[0], output)

    return add


def _decoded(decode: SideBySide | Apart, site: Site, x: Tensor, output: Tensor) -> Tensor:
    """What a site says of one token per row."""
    a, b = decode.factors[site.path]
    if isinstance(decode, SideBySide):
        return side_by_side(output, x, a, b, decode.scale_BM)
    return apart(output, x, a, b, decode.places)


def _extent(assignment: Assignment) -> tuple[int, int]:
    """For how many rows and columns it speaks; 1 for all of them alike."""
    match assignment:
        case Rows(index_B):
            return len(index_B), 1
        case Dense(weight) if weight.dim() == 2:
            return len(weight), 1
        case Dense(tensor) | Tokens(tensor) | TopK(tensor):
            return tensor.shape[0], tensor.shape[1]


def _compute_dtype(a_KRI: Tensor, x: Tensor) -> torch.dtype:
    """The wider of the adapter's and the input's, as in PEFT: halves on a float32 base lose nothing.

    Unless autocast decides otherwise; stated, since grouped_mm escapes autocast.
    """
    device = a_KRI.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(a_KRI.dtype, x.dtype)
