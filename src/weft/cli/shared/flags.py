"""Flags that several verbs have."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

Flag = Annotated[bool, Parameter(negative=())]
"""A switch that is off unless named; it has no `--no-` form."""

Threads = Annotated[int | None, Parameter(validator=Number(gte=1))]
"""CPU threads; None leaves them to torch."""


def set_threads(threads: Threads) -> None:
    """Use so many CPU threads from here on."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
