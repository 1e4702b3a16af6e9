"""What `weft experiment library` is told, and the words it speaks in: requests, and ways to answer them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt

from weft.config import Config
from weft.embed import EncoderConfig
from weft.evaluate.learned_ways import GateTraining, LayerTraining, LoraHub
from weft.evaluate.merging import Method
from weft.tasks import Row
from weft.tasks.source import Source
from weft.types import Mixture

QUARTER = "oracle at 1/4, described"
"""The way that shows what a gate on prompts with a description could gain from the task's own adapter."""


class Single(Config):
    """One adapter that was trained on the rows of many tasks."""

    path: str
    described: bool = False
    """Whether it was trained, and is asked, with the description in the prompt."""


class RoutingRecipe(Config):
    """`weft experiment library RECIPE`."""

    base: str
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    library: str
    """Folder of adapter folders, each named as the task that it was trained for."""
    data: Source = Field(discriminator="kind")
    tasks: PositiveInt = 64
    """How many tasks ask, drawn from those of the library."""
    distractors: int = Field(default=32, ge=0)
    """Adapters beside theirs, of tasks that do not ask."""
    encoders: dict[str, EncoderConfig]
    """Name -> what reads descriptions, for the routers that do."""
    encoder_cache: str = "runs/encoder-cache"
    examples: PositiveInt = 4
    """Solved train rows that a request brings along, for the ways that look at them."""
    gates: GateTraining | None = GateTraining()
    """Training of the gates that learn, in the experiment; none are trained where it is null."""
    lorahub: LoraHub | None = LoraHub()
    """LoraHub's search, for every task and seed; null leaves it out."""
    layers: LayerTraining | None = LayerTraining()
    """Weights per layer, learned for every task and seed; null leaves them out."""
    merges: dict[str, Method] = {}
    """Name -> how the asking tasks' adapters and the distractors become one."""
    singles: dict[str, Single] = {}
    """Name -> one adapter that was trained on many tasks."""
    routers: dict[str, str] = {}
    """Name -> folder of a trained router."""
    trees: dict[str, str] = {}
    """Name -> folder of a tree, trained with the description in the prompt."""
    hypernetworks: dict[str, str] = {}
    """Name -> hypernetwork whose adapters, made from unseen wordings, are requests of retrieval."""
    early: dict[str, str] = {}
    """Name -> adapter folders of the same tasks from another, shorter training: requests of retrieval."""
    sizes: tuple[PositiveInt, ...] = (64, 256)
    """Specialists sizes at which retrieval is measured."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws a wording and rows of its own for every task."""
    rows_per_task: PositiveInt = 8
    max_new_tokens: PositiveInt = 16
    batch_size: PositiveInt = 128
    output: str | None = None
    """The Markdown page; JSON and a picture go beside it."""


@dataclass(frozen=True, eq=False)
class Requests:
    """N questions of T tasks, `rows_per_task` of each in a row."""

    rows: tuple[Row, ...]
    wordings: tuple[str, ...]
    """By task: one that no training saw."""
    known: tuple[str, ...]
    """By task: one that trainings saw; what stands in the prompt of the ways that put one there."""
    per_task: int


@dataclass(frozen=True, eq=False)
class Way:
    """One way to answer the requests of one seed."""

    name: str
    sees: Literal["nothing", "wording", "examples", "prompt", "prompt with description", "the task"]
    """What it decides on."""
    mixture: Mixture | None
    """A row for every request, or one for all; None is the base."""
    active: float
    """Adapters, of the library's rank, that every token passes."""
    total: float
    """Adapters, of the library's rank, that are kept."""
    weight_TK: Float[torch.Tensor, "T K"] | None = None
    """Of every adapter for each task, where a router decides; adapters 0 to T - 1 are the tasks' own."""
    described: bool = False
    """Whether the known description is in the prompt."""


Ways = Callable[[Requests, int], Sequence[Way]]
