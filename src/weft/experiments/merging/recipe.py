"""What `weft experiment merging` is told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveInt

from weft.config import Config
from weft.embed import EncoderConfig
from weft.experiments.recipe import AbstractExperiment


class Method(Config):
    """One way to merge."""

    method: str
    """Name of a merge method."""
    weight: float | None = None
    """Of every adapter; 1 over their number unless given."""
    options: dict[str, Any] = {}
    """Its other options."""


class MergingRecipe(AbstractExperiment):
    """`weft experiment merging RECIPE`."""

    device: str = "cpu"
    """Where the base runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base."""
    encoder: EncoderConfig
    """Reads the descriptions for `routed`."""
    sets: dict[PositiveInt, PositiveInt]
    """Adapters in a set -> how many random sets of that size."""
    methods: dict[str, Method]
    """The name shown -> method and options."""
    described: bool = False
    """Whether the task's description is in the prompt, so that one model can tell the tasks apart."""
    statistics_rows: PositiveInt = 16
    """Train rows of a task that fisher and regmean look at."""
    batch_size: PositiveInt = 256
    """Rows that are answered side by side."""
    seed: int = 0
    """Of the sets that are drawn."""
    output_dir: str
    """Where the scores of every set go as they come; a run that was stopped goes on from them."""
