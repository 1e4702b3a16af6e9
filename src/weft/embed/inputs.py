"""Mean input embedding: what a task's texts are made of, without a forward.

    e = mean over tokens t of E[t]        E: the base's token embeddings [V, H]

The tokens are those of a description, or of the prompts and completions of a few examples, together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from weft.embed.text import texts_of
from weft.errors import ConfigError, CueError
from weft.host import Host
from weft.types import AbstractEncoder, Cue, Examples


class InputEmbedding(AbstractEncoder):
    """The base's own token embeddings, averaged; for `Description` and `Examples`.

    Of examples it reads the pairs and not their description. Every token counts the same, in whatever order,
    so this is the cheapest embedding and the coarsest. Frozen, float32, no gradient.
    Raises ConfigError when the base is no language model with a tokenizer.
    """

    def __init__(self, host: Host) -> None:
        super().__init__()
        if host.tokenizer is None or not isinstance(host.module, PreTrainedModel):
            raise ConfigError("only a language model with its tokenizer has input embeddings of a text")
        # In a tuple, so that it is no part of the state: the base follows no train() or state_dict().
        self._frozen = (host,)
        self._table = (host.module.get_input_embeddings(),)
        self.dim = int(self._table[0](torch.zeros(1, dtype=torch.long, device=host.device)).shape[-1])

    @property
    def identity(self) -> str:
        """Kind and the base's fingerprint."""
        return f"inputs:{self._frozen[0].fingerprint}"

    def config(self) -> dict[str, Any]:
        """Kind and the base's name."""
        return {"kind": "inputs", "base": self._frozen[0].name}

    @torch.no_grad()
    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """One vector per cue, on the base's device. Raises CueError for another kind, or for no text."""
        rows = [self._tokens(cue) for cue in cues]
        if not rows:
            return torch.zeros(0, self.dim, device=self._frozen[0].device)
        return torch.stack([self._mean(ids) for ids in rows])

    def _tokens(self, cue: Cue) -> list[int]:
        texts = (
            [text for pair in cue.pairs for text in pair] if isinstance(cue, Examples) else texts_of([cue])
        )
        if not texts:
            raise CueError("the examples are empty; give at least one pair of prompt and completion")
        tokenizer = self._frozen[0].tokenizer
        ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        if not ids:
            raise CueError(f"the base's tokenizer finds nothing to read in {' '.join(texts)[:80]!r}")
        return ids

    def _mean(self, ids: Sequence[int]) -> Float[Tensor, " D"]:
        return self._table[0](torch.tensor(ids, device=self._frozen[0].device)).float().mean(0)
