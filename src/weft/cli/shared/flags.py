"""Flags that several verbs have."""

from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

Flag = Annotated[bool, Parameter(negative=())]
"""A switch that is off unless named; it has no `--no-` form."""

BaseMismatch = Literal["refuse", "warn", "allow"]
"""What to do with an adapter that was made for another base; `weft.adapters.OnMismatch`, without torch."""

Threads = Annotated[int | None, Parameter(validator=Number(gte=1))]
"""CPU threads; None leaves them to torch."""


def set_threads(threads: Threads) -> None:
    """Use so many CPU threads from here on."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
