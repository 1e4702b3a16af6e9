"""What the sites of a host read while it runs: the mixture of one forward, made ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from weft.errors import ShapeError
from weft.host.placed import Placed, Trip, add_back, make_trip, send
from weft.host.plan import Plan, contribution, make_plan
from weft.types import AbstractGate, Assignment, Dense, Fixed, Rows, Site, Term, Tokens, TopK

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Module path -> (a_KRI, b_KOR) of one bank."""


@dataclass(frozen=True, eq=False)
class Span:
    """The terms in force for one forward, and the part of the sequence that it reads."""

    terms: tuple[tuple[Term, Factors], ...]
    states: Mapping[AbstractGate, Any] = field(default_factory=dict)
    """What each gate decided in `prepare`."""
    rows: int | None = None
    """B of the token ids; None where the module reads no ids."""
    columns: int | None = None
    """T of the token ids."""
    offset: int = 0
    """Columns that are in the cache already."""
    _plans: dict[tuple[AbstractGate, int, int], Plan] = field(default_factory=dict)
    """Of fixed assignments, by gate, rows and columns: one plan serves all sites."""
    _trips: dict[tuple[Term, Assignment, int, int], Trip] = field(default_factory=dict)
    """To parts of banks: one serves all sites that follow one decision."""

    def change(self, site: Site, x: Tensor, output: Tensor) -> Tensor:
        """The output of a site with the contributions of all terms; `output` itself where there are none."""
        asked: dict[AbstractGate, tuple[Assignment, Plan]] = {}
        away: list[tuple[Tensor, Trip]] = []
        for term, factors in self.terms:
            if site.path not in factors:
                continue
            a_KRI, b_KOR = factors[site.path]
            x_BTI = self._tokens(x)
            if term.gate not in asked:
                assignment = term.gate.assign(x_BTI, site, self.states.get(term.gate))
                asked[term.gate] = assignment, self._plan(term.gate, assignment, x_BTI, site)
            assignment, plan = asked[term.gate]
            dtype = _compute_dtype(a_KRI)
            trip = None
            if isinstance(term, Placed):
                trip = self._trip(term, assignment, plan, x_BTI, a_KRI)
                if trip.nobody:
                    continue
                x_BTI, plan = send(x_BTI, trip, a_KRI.device), trip.plan
            y_BTO = contribution(x_BTI.to(dtype), a_KRI.to(dtype), b_KOR.to(dtype), plan, term.combine)
            if y_BTO is None:
                continue
            if trip is None:
                output = (output + y_BTO.reshape(output.shape)).to(output.dtype)
            else:
                away.append((y_BTO, trip))
        # Brought back when all have been sent, so that devices work side by side.
        for y_NMO, trip in away:
            output = add_back(output, y_NMO, trip)
        return output

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

    def _plan(self, gate: AbstractGate, assignment: Assignment, x_BTI: Tensor, site: Site) -> Plan:
        rows, columns = x_BTI.shape[:2]
        if not isinstance(gate, Fixed):
            # A gate that looks at tokens speaks of those that it was shown, not of the whole sequence.
            return make_plan(assignment, columns, 0)
        if (gate, rows, columns) not in self._plans:
            given_rows, given_columns = _extent(assignment)
            if self.rows not in (None, rows) and given_rows > 1:
                raise ShapeError(f"{site.path} sees tokens without their rows; give all rows one assignment")
            if self.columns not in (None, columns) and given_columns > 1:
                raise ShapeError(f"{site.path} sees {columns} of {self.columns} tokens; assign per row")
            self._plans[gate, rows, columns] = make_plan(assignment, columns, self.offset)
        return self._plans[gate, rows, columns]

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


def _extent(assignment: Assignment) -> tuple[int, int]:
    """For how many rows and columns it speaks; 1 for all of them alike."""
    match assignment:
        case Rows(index_B):
            return len(index_B), 1
        case Dense(weight) if weight.dim() == 2:
            return len(weight), 1
        case Dense(tensor) | Tokens(tensor) | TopK(tensor):
            return tensor.shape[0], tensor.shape[1]


def _compute_dtype(a_KRI: Tensor) -> torch.dtype:
    """The adapter's own, unless autocast decides otherwise; stated, since grouped_mm escapes autocast."""
    device = a_KRI.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else a_KRI.dtype
