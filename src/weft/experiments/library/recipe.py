"""What `weft experiment library` is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from weft.config import Config, Seeds
from weft.embed import EncoderConfig
from weft.experiments.merging.recipe import Method
from weft.experiments.recipe import AbstractExperiment


class GateTraining(Config):
    """How the gates of the experiment are trained."""

    steps: PositiveInt = 150
    """Steps for each kind of gate."""
    learning_rate: float = Field(default=0.003, gt=0)
    """Of Adam."""


class LoraHub(Config):
    """LoraHub in the experiment: for every task by itself."""

    candidates: PositiveInt = 20
    """Adapters that are weighed, drawn from the library, the task's own among them."""
    budget: PositiveInt = 40
    """Mixtures that are tried for a task."""
    at_once: PositiveInt = 8
    """Mixtures that are tried in one batch."""


class LayerTraining(Config):
    """Weights per layer in the experiment: for every task by itself, over the adapters that LoraHub has."""

    candidates: PositiveInt = 20
    """Adapters that are weighed, drawn from the library, the task's own among them."""
    steps: PositiveInt = 20
    """Steps for each task."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Of Adam."""


class Single(Config):
    """One adapter that was trained on the rows of many tasks."""

    path: str
    """Its folder."""
    described: bool = False
    """Whether it was trained, and is asked, with the description in the prompt."""


class RoutingRecipe(AbstractExperiment):
    """`weft experiment library RECIPE`."""

    device: str = "cpu"
    """Where the base runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base."""
    tasks: PositiveInt = 64
    """How many tasks ask, drawn from those of the library."""
    distractors: int = Field(default=32, ge=0)
    """Adapters beside theirs, of tasks that do not ask."""
    encoders: dict[str, EncoderConfig]
    """Name -> what reads descriptions, for the routers that do."""
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
    """Library sizes at which retrieval is measured."""
    seeds: Seeds = (0, 1, 2)
    """Each draws a wording and rows of its own for every task."""
    batch_size: PositiveInt = 128
    """Rows that are answered side by side."""
