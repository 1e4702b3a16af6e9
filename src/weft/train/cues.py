"""What a hypernetwork is shown of a task while it trains: its description, examples, or both."""

import random
from collections.abc import Sequence

from pydantic import Field, model_validator

from weft.config import Config
from weft.tasks import Row, Task
from weft.types import Cue, Description, Examples


class CueConfig(Config):
    """By default the description alone; anything else needs an encoder of kind `parts`."""

    examples: int = Field(default=0, ge=0, le=64)
    """How many train rows stand beside the description, never those that the loss is taken on."""
    labelled: bool = True
    """Whether examples show their answers; without, they are prompts, as Drag-and-Drop reads them."""
    own_prompt: bool = False
    """The prompt to be answered is the example, as for Hyperdecoder; needs one row per task."""
    description_dropout: float = Field(default=0.0, ge=0, le=1)
    """How often the description is left out, where there are examples."""
    examples_dropout: float = Field(default=0.0, ge=0, le=1)
    """How often the examples are left out; never together with the description."""

    @model_validator(mode="after")
    def _one_kind_of_example(self) -> "CueConfig":
        if self.own_prompt and self.examples:
            raise ValueError("own_prompt takes the place of examples; set examples to 0")
        return self


def make_cue(config: CueConfig, task: Task, description: str, rows: Sequence[Row], *, key: str) -> Cue:
    """The cue of one task for answering `rows`; the same for the same key. A picture is all of its cue."""
    if task.image is not None:
        return task.image
    if config.own_prompt:
        pairs = tuple((row.prompt, "") for row in rows)
    else:
        others = [row for row in task.train if row not in rows]
        chance = random.Random(f"{key}/examples")
        chosen = sorted(others, key=lambda _: chance.random())[: config.examples]
        pairs = tuple((row.prompt, row.completion if config.labelled else "") for row in chosen)
    chance = random.Random(f"{key}/dropout")
    drop_description, drop_examples = (
        chance.random() < share for share in (config.description_dropout, config.examples_dropout)
    )
    if not pairs or (drop_examples and not drop_description):
        return Description(description)
    return Examples(pairs, "" if drop_description and not drop_examples else description)
