"""What `weft experiment reconstruct` is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from weft.config import Config, Size
from weft.embed import EncoderConfig
from weft.hyper import T2LConfig
from weft.tasks.source import Data
from weft.train.optimizer import OptimizerConfig

Cue = Literal["text", "one-hot"]


class ReconstructionRecipe(Config):
    """`weft experiment reconstruct RECIPE`."""

    base: str
    library: str
    """Folder of adapter folders, each named as its task, or one that ships with Weft."""
    data: Data
    encoder: EncoderConfig
    """Reads the descriptions of the text cue."""
    encoder_cache: str = "runs/encoder-cache"
    networks: Annotated[dict[str, T2LConfig], Field(min_length=1)]
    """The name shown -> a network; its rank is at least that of the library."""
    cues: Annotated[tuple[Cue, ...], Field(min_length=1)] = ("text", "one-hot")
    counts: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """How many adapters of the library a network writes down."""
    steps: Size = 1000
    tasks_per_batch: Size = 32
    objective: Literal["factors", "delta"] = "factors"
    optimizer: OptimizerConfig = OptimizerConfig()
    rows_per_task: Size = 8
    max_new_tokens: Size = 16
    seed: int = 0
    output_dir: str
    """A run folder for every network; one that is done is not trained again."""
    output: str | None = None
    """The Markdown page; JSON and a picture go beside it."""

    def quick(self) -> ReconstructionRecipe:
        """The first two networks with the first cue, on the fewest adapters, and a tenth of the steps."""
        return self.model_copy(
            update={
                "networks": dict(list(self.networks.items())[:2]),
                "cues": self.cues[:1],
                "counts": (min(self.counts),),
                "steps": max(self.steps // 10, 1),
                "output_dir": f"{self.output_dir}-quick",
            }
        )
