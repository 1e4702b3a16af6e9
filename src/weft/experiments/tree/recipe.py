"""What `weft experiment tree` is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from weft.config import Config, Name, Seeds
from weft.train.tree import TreeRecipe


class TreeComparison(Config):
    """`weft experiment tree RECIPE`."""

    corpora: Annotated[dict[Name, TreeRecipe], Field(min_length=1)]
    """By name. The runs of its contestants go into folders below `run.output_dir`; `depth` is not used."""
    larger: dict[str, dict[Name, str]] = {}
    """By corpus larger bases, each by a name that the page gives it."""
    depths: Annotated[tuple[Annotated[int, Field(ge=1, le=6)], ...], Field(min_length=1)] = (1, 2, 3, 4, 5, 6)
    """Depths of the trees; 2^depth leaves each."""
    experts: int = Field(default=16, gt=1)
    """Of SMEAR and of the mixture; what the wide LoRA has times the rank."""
    seeds: Seeds = (0,)
    """Every contestant is trained once with each."""
    output: str | None = None
    """The page, a .md file."""

    @model_validator(mode="after")
    def _fits_together(self) -> TreeComparison:
        for name, recipe in self.corpora.items():
            if recipe.scope != "token" or recipe.shared_r:
                raise ValueError(f"corpus {name}: contestants decide per token, without a shared leaf")
        if unknown := self.larger.keys() - self.corpora.keys():
            raise ValueError(f"larger bases for {min(unknown)}, which is no corpus")
        return self
