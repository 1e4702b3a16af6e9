"""A text encoder that is read at its first token, as Text-to-LoRA's released networks read theirs.

    e = sqrt(D) h / |h|        h: the last layer's state of the first token

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105) takes gte-large-en-v1.5 so, in float32, and ends every
description that ends in a letter with a full stop (github.com/SakanaAI/text-to-lora, its public code).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from weft.embed.frozen import weights_hash
from weft.embed.text import texts_of
from weft.errors import MissingFileError
from weft.files import resolve
from weft.host.bars import no_bars
from weft.plain import reason_of
from weft.types import AbstractEncoder, Cue

_WINDOW = 8192
_ROWS = 16


class FirstToken(AbstractEncoder):
    """Frozen vectors of an encoder that transformers knows: a folder or a hub id, without code of its own.

    Raises MissingFileError where there is none.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        # In a tuple, so that it is no part of the state: a frozen model follows no train() or state_dict().
        self._frozen = _load(name)
        self.dim = int(self._frozen[0].config.hidden_size)

    @property
    def identity(self) -> str:
        """Kind and a hash of the frozen weights."""
        return f"first_token:{weights_hash(self._frozen[0])}"

    def config(self) -> dict[str, Any]:
        """Kind and the model's name."""
        return {"kind": "first_token", "name": self.name}

    @torch.no_grad()
    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """Vectors in float32 without gradient. Raises CueError for what is not a description, or is empty."""
        texts = [_ended(text) for text in texts_of(cues)]
        parts = [self._read(texts[i : i + _ROWS]) for i in range(0, len(texts), _ROWS)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim)

    def _read(self, texts: list[str]) -> Float[Tensor, "B D"]:
        model, tokenizer = self._frozen
        batch = tokenizer(
            texts,
            truncation=True,
            padding=True,
            padding_side="right",
            max_length=_WINDOW,
            return_tensors="pt",
        )
        first_BD = model(**batch).last_hidden_state[:, 0].float()
        return normalize(first_BD, dim=-1) * math.sqrt(self.dim)


def _ended(text: str) -> str:
    text = text.strip()
    return f"{text}." if text[-1].isalpha() else text


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer  # here, because the import takes seconds

    folder = resolve(name)
    source = name if folder is None else str(folder)
    try:
        with nullcontext() if folder is None else no_bars():
            model = AutoModel.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise MissingFileError(
            f"no text encoder {name!r} that transformers reads by itself ({reason_of(error)}); "
            "code that comes with a model is never run, so name a copy in a format that transformers knows"
        ) from error
    return model.eval().requires_grad_(False), tokenizer
