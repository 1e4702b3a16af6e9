"""One learned vector per task name, trained with the hypernetwork that reads it."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.embed.onehot import check_names, hash_names, indices
from weft.types import AbstractEncoder, Cue


class Learned(AbstractEncoder):
    """The cue's text is a task name; its vector is a row of a table that starts at N(0, 1)."""

    def __init__(self, names: Sequence[str], dim: int) -> None:
        super().__init__()
        self.names = check_names(names)
        self.dim = dim
        self.table = nn.Embedding(len(self.names), dim)

    @property
    def identity(self) -> str:
        """Kind, names and size; the table itself changes while it trains."""
        return f"learned:{self.dim}:{hash_names(self.names)}"

    def config(self) -> dict[str, Any]:
        """Kind, names and size."""
        return {"kind": "learned", "names": list(self.names), "dim": self.dim}

    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """Rows of the table, with gradient. Raises UnknownNameError, CueError."""
        return self.table(torch.tensor(indices(cues, self.names), device=self.table.weight.device))
