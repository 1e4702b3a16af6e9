"""Flags that several verbs have."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

Flag = Annotated[bool, Parameter(negative=())]
"""A switch that is off unless named; it has no `--no-` form."""

Json = Annotated[bool, Parameter(negative=(), help="Print JSON.")]

Output = Annotated[Path, Parameter(name=("--output", "-o"))]
"""The file that a verb writes."""

OutputFolder = Annotated[Path, Parameter(name=("--output", "-o", "--output-dir"))]
"""The folder that a verb writes; Hugging Face calls it output_dir."""

BaseMismatch = Literal["refuse", "warn", "allow"]
"""What to do with an adapter that was made for another base; `weft.adapters.OnMismatch`, without torch."""

Threads = Annotated[
    int | None, Parameter(validator=Number(gte=1, lte=4096), help="CPU threads; torch decides unless given.")
]

Paraphrases = Annotated[int, Parameter(validator=Number(gte=1, lte=16))]
"""How many wordings of a description an adapter is the mean of."""


def set_threads(threads: Threads) -> None:
    """Use so many CPU threads from here on."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
