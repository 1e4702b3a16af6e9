"""What `weft train tree` is told."""

from typing import Literal

from pydantic import Field, model_validator

from weft.route.tree import Scope
from weft.tasks.source import Data
from weft.train.optimizer import AdapterOptimizer, OptimizerConfig
from weft.train.recipe import AbstractRecipe


class TreeRecipe(AbstractRecipe):
    """`weft train tree RECIPE`; names as in `weft train lora` where they have one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base; the tree is trained in float32."""
    data: Data
    split: str = "train"
    """Where the tasks come from: trained on their train rows, measured on their test rows."""
    tasks: int | None = Field(default=None, gt=0)
    """The first so many, or all."""
    tasks_per_batch: int = Field(default=32, ge=0)
    """0 trains on plain text alone."""
    rows_per_task: int = Field(default=4, gt=0)
    """Rows of a task in one step."""
    describe: bool = True
    """Whether prompts begin with a description of the task."""
    text_rows: int = Field(default=0, ge=0)
    """Rows of plain text per step."""
    text_length: int = Field(default=128, gt=1)
    """Tokens of each of them."""
    text_tokens: int | None = Field(default=None, gt=1)
    """Read at most so many tokens of text; None is all."""
    text_prompt: int = Field(default=1, gt=0)
    """Tokens that a row of text begins with, outside the loss; a tree per sequence decides on them."""
    depth: int = Field(default=3, ge=0, le=6)
    """A tree of 2^depth leaves; 0 is one LoRA."""
    r: int = Field(default=8, gt=0)
    """Rank of every leaf."""
    lora_alpha: float = Field(default=16, gt=0)
    """What a leaf adds is scaled by alpha / r."""
    shared_r: int = Field(default=0, ge=0)
    """Rank of a further leaf that is always on; 0 for none."""
    scope: Scope = "token"
    """Whether each token goes down the tree by itself, or a sequence does once."""
    layers: tuple[int, ...] | Literal["all"] = (0,)
    """Layers that decide, with scope token; sites before the first of them stay the base."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sigmoids at the start."""
    final_temperature: float = Field(default=0.3, gt=0)
    """What it falls to while descent is soft."""
    hard_ratio: float = Field(default=0.25, ge=0, le=1)
    """Share of the steps, at the end, by hard descent."""
    hardening: float = Field(default=0.1, ge=0)
    """Weight of the loss that pushes nodes to decide."""
    balance: float = Field(default=0.1, ge=0)
    """Weight of the loss that keeps leaves evenly loaded."""
    rebalance: float = Field(default=0.0, ge=0)
    """After each step the bias of a node moves by this times what went right above half of its tokens."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear`, names of modules, or a regular expression over whole paths, as in PEFT."""
    optimizer: AdapterOptimizer = OptimizerConfig(learning_rate=3e-3)
    tokens_per_forward: int | None = Field(default=None, gt=0)
    """A step takes as many forwards as it needs; None is 2048 on a CPU, 16384 elsewhere."""
    max_length: int | None = Field(default=None, gt=1)
    """A longer row is an error; None is the window of the base."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved leaves."""
    eval_tasks: int = Field(default=64, gt=0)
    """Tasks that an evaluation looks at."""
    eval_rows: int = Field(default=4, gt=0)
    """Rows of each task, or 16 times as many of text, that it is measured on."""

    @model_validator(mode="after")
    def _fits_together(self) -> "TreeRecipe":
        if not self.tasks_per_batch + self.text_rows:
            raise ValueError("there is nothing to train on; set tasks_per_batch or text_rows")
        if self.text_prompt >= self.text_length:
            raise ValueError("text_prompt leaves no token of text_length to learn")
        return self
