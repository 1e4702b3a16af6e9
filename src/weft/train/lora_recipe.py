"""The recipe of task LoRAs: `weft train lora RECIPE`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weft.config import Rank, Size
from weft.tasks.source import Data
from weft.train.optimizer import AdapterOptimizer, OptimizerConfig
from weft.train.recipe import AbstractRecipe


class LoraRecipe(AbstractRecipe):
    """`weft train lora RECIPE`; names as in PEFT's LoraConfig and TRL's SFTConfig where they have one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base; adapters are trained in float32."""
    data: Data
    split: str = "train"
    """Where the tasks come from. Each is trained on its train rows and measured on its test rows."""
    tasks: Size | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The first so many, or these, or all."""
    mode: Literal["per_task", "multitask"] = "per_task"
    """One adapter for each task, or a single one for the rows of all."""
    every_answer: bool = False
    """Take the loss on every assistant turn of a chat but those of weight 0, not on its last one alone."""
    r: Rank = 8
    """Rank of the adapters."""
    lora_alpha: float = Field(default=16, gt=0, le=1e6)
    """What the adapter adds is scaled by alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the numbers before A that a training step drops."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r."""
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """`all-linear`, names of modules, or a regular expression over whole paths, as in PEFT."""
    describe: bool = False
    """Whether prompts begin with a description of the task."""
    optimizer: AdapterOptimizer = OptimizerConfig()
    """`max_grad_norm` clips each adapter by itself."""
    rows_per_task: Size = 8
    """Rows of a task in one step."""
    tasks_per_batch: Size | None = None
    """How many tasks a step of a multitask run meets, None for all; per_task meets all in every step."""
    tokens_per_forward: Size | None = None
    """A step takes as many forwards as it needs; None is 1024 on a CPU, 16384 elsewhere."""
    max_length: int | None = Field(default=None, gt=1, le=1 << 24)
    """Rows of more tokens are left out, and counted; None is the window of the base."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved adapters."""
    eval_rows: Size = 32
    """Rows of each task that it is measured on."""
    load_best_model_at_end: bool = False
    """Save each adapter as it was when its test loss was lowest; needs `run.eval_steps` and test rows."""
    early_stopping_patience: Size | None = None
    """Stop when no adapter's test loss improved in so many evaluations; needs the same."""

    @model_validator(mode="after")
    def _fits_together(self) -> "LoraRecipe":
        if (self.load_best_model_at_end or self.early_stopping_patience) and not self.run.eval_steps:
            raise ValueError("the best step is known from evaluations; give run.eval_steps too")
        if self.mode == "per_task" and self.tasks_per_batch is not None:
            raise ValueError("tasks_per_batch is for mode: multitask; per_task meets every task in each step")
        return self
