"""What `weft experiment tree` is told."""

from __future__ import annotations

from pydantic import Field, model_validator

from weft.config import Config
from weft.files import is_name
from weft.train.tree import TreeRecipe


class TreeComparison(Config):
    """`weft experiment tree RECIPE`."""

    corpora: dict[str, TreeRecipe]
    """By name. The runs of its contestants go into folders below `run.output_dir`; `depth` is not used."""
    larger: dict[str, dict[str, str]] = {}
    """By corpus larger bases, each by a name that the page gives it."""
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Depths of the trees; 2^depth leaves each."""
    experts: int = Field(default=16, gt=1)
    """Of SMEAR and of the mixture; what the wide LoRA has times the rank."""
    seeds: tuple[int, ...] = (0,)
    """Every contestant is trained once with each."""
    output: str | None = None
    """The page, a .md file."""

    @model_validator(mode="after")
    def _fits_together(self) -> TreeComparison:
        if not self.corpora or not self.depths or not self.seeds:
            raise ValueError("there is nothing to compare; give corpora, depths and seeds")
        for name, recipe in self.corpora.items():
            if not is_name(name):
                raise ValueError(f"{name!r} cannot name a corpus: use letters, digits and . _ -")
            if not all(is_name(larger) for larger in self.larger.get(name, {})):
                raise ValueError(f"larger bases of {name} are named with letters, digits and . _ -")
            if recipe.scope != "token" or recipe.shared_r:
                raise ValueError(f"corpus {name}: contestants decide per token, without a shared leaf")
        if unknown := self.larger.keys() - self.corpora.keys():
            raise ValueError(f"larger bases for {min(unknown)}, which is no corpus")
        if any(not 1 <= depth <= 6 for depth in self.depths):
            raise ValueError(f"depths are from 1 to 6, got {list(self.depths)}")
        return self
