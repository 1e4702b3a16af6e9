"""What `weft experiment zero-shot` is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from weft.config import Config, Seeds, Size
from weft.tasks.source import Data


class Accuracy(Config):
    """Every control condition of `weft eval`, split by split."""

    splits: Annotated[tuple[str, ...], Field(min_length=1)]
    """Of the data."""
    seeds: Seeds = (0, 1, 2)
    """Each draws rows, wordings, other tasks and gibberish of its own."""
    max_tasks: PositiveInt = 20
    """Of each split."""
    rows_per_task: PositiveInt = 2
    """By each seed."""
    max_new_tokens: PositiveInt = 12
    """Most tokens of an answer."""
    batch_size: PositiveInt = 64
    """Rows in a forward."""
    bootstrap_samples: PositiveInt = 2000
    """Replicates behind the intervals."""
    with_description: bool = False
    """Also answer under the multi-task and the generated adapters with the description in the prompt."""


class Controls(Config):
    """Adapters that know nothing of the task, on the rows of `accuracy`: random ones, and one fixed."""

    mean_of: Size = 64
    """The fixed adapter is the exact mean of those generated for so many training tasks, evenly spread."""


class Cost(Config):
    """Seconds and FLOPs of making adapters, beside the base's own."""

    adapters: Size = 64
    """How many are made at once, beside one."""
    repeats: Size = 10
    """Of every timing; the median counts."""
    prompt: Size = 48
    """Tokens in the cache before the decode steps that are timed."""
    shots: tuple[PositiveInt, ...] = (1, 4, 16)
    """Examples in the prompt, in place of an adapter."""
    tasks: Size = 8
    """FLOPs are means over the first so many tasks."""


class Steps(Config):
    """Training on a few examples of functions that no training has seen: from zero, and from the adapter."""

    splits: Annotated[tuple[str, ...], Field(min_length=1)]
    """Tasks are taken from them by turns."""
    tasks: Size = 32
    """How many functions are trained, each from both starts."""
    examples: Size = 16
    """Train rows of each."""
    steps: Size = 200
    """Of training, from each start."""
    look: Size = 10
    """Steps between two looks at the held-out rows."""
    held_out: Size = 12
    """Test rows that the loss is taken on."""
    rows_per_step: Size = 8
    """Rows in one step."""
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Of AdamW, for both."""


class ZeroShotRecipe(Config):
    """`weft experiment zero-shot RECIPE`; a section that is left out is not measured."""

    base: str
    """Embedded name, folder or hub id of the frozen base."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the base."""
    hypernetwork: str
    """A folder, or one that ships with Weft."""
    multitask: str | None = None
    """Adapter folder: one LoRA for all tasks, the fixed adapter among the controls."""
    oracles: str | None = None
    """Folder of adapter folders, each named as the task that it was trained for."""
    data: Data
    """Where the tasks come from."""
    accuracy: Accuracy | None = None
    """Every control condition, split by split."""
    controls: Controls | None = None
    """Random and fixed adapters beside the generated ones; needs `accuracy`."""
    cost: Cost | None = None
    """Seconds and FLOPs."""
    steps: Steps | None = None
    """Training from the generated adapter beside training from zero."""
    seed: int = 0
    """Of the training in `steps`."""
    output_dir: str
    """Where every part goes when it is done; a run that was stopped goes on from them."""
    output: str | None = None
    """The Markdown page; JSON and pictures go beside it."""

    @model_validator(mode="after")
    def _has_rows(self) -> ZeroShotRecipe:
        if self.controls is not None and self.accuracy is None:
            raise ValueError("controls are measured on the rows of accuracy; give both")
        return self

    def quick(self) -> ZeroShotRecipe:
        """The same questions in minutes: one seed, few tasks, few steps."""
        accuracy, cost, steps = self.accuracy, self.cost, self.steps
        return self.model_copy(
            update={
                "accuracy": accuracy and accuracy.model_copy(update={"seeds": (0,), "max_tasks": 8}),
                "cost": cost and cost.model_copy(update={"repeats": 3, "tasks": 2}),
                "steps": steps and steps.model_copy(update={"tasks": 1, "steps": 20, "look": 5}),
                "output_dir": f"{self.output_dir}-quick",
            }
        )
