"""What `weft experiment reconstruct` is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from weft.config import Name, Size
from weft.embed import EncoderConfig
from weft.experiments.recipe import AbstractExperiment
from weft.hyper import T2LConfig
from weft.train.optimizer import OptimizerConfig

Cue = Literal["text", "one-hot"]


class ReconstructionRecipe(AbstractExperiment):
    """`weft experiment reconstruct RECIPE`."""

    encoder: EncoderConfig
    """Reads the descriptions of the text cue."""
    networks: Annotated[dict[Name, T2LConfig], Field(min_length=1)]
    """The name shown, and of its folder -> a network; its rank is at least that of the library."""
    cues: Annotated[tuple[Cue, ...], Field(min_length=1)] = ("text", "one-hot")
    """What a network is told of an adapter: its description, or its name."""
    one_hot: tuple[str, ...] | None = None
    """Networks that the cue one-hot is measured with; all unless given."""
    counts: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """How many adapters of the library a network writes down."""
    steps: Size = 1000
    """Of training, for each network."""
    tasks_per_batch: Size = 32
    """Adapters in one step."""
    objective: Literal["factors", "delta"] = "factors"
    """As in `weft train reconstruct`."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Of every training."""
    seed: int = 0
    """Of every training."""
    output_dir: str
    """A run folder for every network; one that is done is not trained again."""

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
