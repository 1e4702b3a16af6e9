"""A gate learned on a few rows, base and library frozen: plain Adam on the loss that the caller gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, ShapeError
from weft.types import AbstractGate


def learn(
    gate: AbstractGate,
    loss: Callable[[int], Float[Tensor, ""]],
    *,
    steps: int = 100,
    learning_rate: float = 0.01,
    max_grad_norm: float = 1.0,
) -> list[float]:
    """Take `steps` steps down `loss(step)`, counted from 0; returns the losses, each before its step.

    The gate is in training mode meanwhile. Raises ConfigError for an option out of range or a gate without
    parameters; ShapeError for a loss that is NaN or does not depend on the gate, which stays as it was then.
    """
    parameters = [parameter for parameter in gate.parameters() if parameter.requires_grad]
    if steps < 1 or not 0 < learning_rate < float("inf") or not max_grad_norm > 0:
        raise ConfigError(
            "steps, learning_rate and max_grad_norm are above 0, "
            f"got {steps}, {learning_rate} and {max_grad_norm}"
        )
    if not parameters:
        raise ConfigError(f"{type(gate).__name__} has no parameter to learn")
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    before = [parameter.detach().clone() for parameter in parameters]
    training = gate.training
    gate.train()
    losses: list[float] = []
    try:
        for step in range(steps):
            now = loss(step)
            if not torch.isfinite(now) or not now.requires_grad:
                how = "does not depend on the gate" if torch.isfinite(now) else f"is {now.item()}"
                with torch.no_grad():
                    for parameter, old in zip(parameters, before, strict=True):
                        parameter.copy_(old)
                raise ShapeError(f"the loss of step {step} {how}; the gate is as it was")
            losses.append(now.item())
            optimizer.zero_grad()
            now.backward()
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            optimizer.step()
    finally:
        optimizer.zero_grad()
        gate.train(training)
    return losses
