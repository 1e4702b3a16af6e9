"""A stage as a differentiable function: its forward and backward are calls to whoever holds the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.swarm.message import Message
from weft.swarm.seat import Seat
from weft.swarm.stage import ADAPTERS


@dataclass(frozen=True, eq=False)
class Reading:
    """What a stage reads beside states and factors."""

    seat: Seat
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    names: Sequence[str]
    """Of the factors, in their order."""
    is_first: bool

    def ask(self, kind: str, x: Tensor, factors: Sequence[Tensor], **more: Tensor) -> Message:
        """One call; it may be repeated by any worker that has the layers."""
        named = dict(zip(self.names, factors, strict=True))
        tensors = {**self.tensors, **named, "ids" if self.is_first else "x": x, **more}
        return self.seat.call(kind, ADAPTERS, self.fields, tensors)

    def __call__(self, x: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """States behind the stage, or logits; differentiable in the states and the factors."""
        return _Remote.apply(self, x, *factors)  # pyright: ignore[reportReturnType]


class _Remote(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reading: Reading, x: Tensor, *factors: Tensor) -> Tensor:
        ctx.reading = reading
        ctx.save_for_backward(x, *factors)
        return reading.ask("read", x, factors).tensors["y"]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        reading: Reading = ctx.reading
        x, *factors = ctx.saved_tensors
        found = reading.ask("backward", x, factors, grad=grad).tensors
        named = zip(reading.names, factors, strict=True)
        return None, found.get("x"), *(found[name].to(factor.device) for name, factor in named)
