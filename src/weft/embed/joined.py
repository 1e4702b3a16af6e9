"""Several encoders side by side."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.errors import ConfigError
from weft.types import AbstractEncoder, Cue


class Joined(AbstractEncoder):
    """Concatenates the vectors of several encoders of the same cues. Raises ConfigError for none."""

    def __init__(self, encoders: Sequence[AbstractEncoder]) -> None:
        super().__init__()
        if not encoders:
            raise ConfigError("joined needs at least one encoder")
        self.parts = tuple(encoders)
        self.encoders = nn.ModuleList(encoders)
        self.dim = sum(encoder.dim for encoder in self.parts)

    @property
    def identity(self) -> str:
        """The parts' identities in order."""
        return f"joined:({','.join(encoder.identity for encoder in self.parts)})"

    def config(self) -> dict[str, Any]:
        """The parts' configs in order."""
        return {"kind": "joined", "encoders": [encoder.config() for encoder in self.parts]}

    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """The parts' vectors, concatenated on the first part's device."""
        vectors = [encoder.encode(cues) for encoder in self.parts]
        return torch.cat([e_BD.to(vectors[0]) for e_BD in vectors], -1)
