"""A description, some examples, or both: one vector, whatever is missing.

    e = [f(description); mean over examples f(prompt -> answer); has description; has examples]

f is any encoder of descriptions. The mean makes the order of the examples mean nothing. An example with an
empty answer is read as its prompt alone. So this is HyperLoRA's cue (a description and k labelled examples),
Drag-and-Drop's (Liang et al. 2025, arXiv 2506.16406: a set of unlabelled prompts) and Hyperdecoder's (Ivison
& Peters 2022, arXiv 2203.08304: the input itself, one prompt). Departs from them in: examples go through a
frozen sentence encoder and a plain mean, where the papers train an encoder of their own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import CueError
from weft.types import AbstractEncoder, Cue, Description, Examples


class Parts(AbstractEncoder):
    """Vectors of descriptions and of examples by one encoder; a part that is missing is zeros.

    `encode` takes `Description` and `Examples`; it raises CueError for others and for a cue without text.
    """

    def __init__(self, encoder: AbstractEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim = 2 * encoder.dim + 2

    @property
    def identity(self) -> str:
        """The identity of the encoder inside."""
        return f"parts:({self.encoder.identity})"

    def config(self) -> dict[str, Any]:
        """The config of the encoder inside."""
        return {"kind": "parts", "encoder": self.encoder.config()}

    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """One vector per cue. All texts are encoded at once, each once."""
        parts = [_texts(cue) for cue in cues]
        texts = list(dict.fromkeys(text for described, shown in parts for text in (*described, *shown)))
        if not texts:
            return torch.zeros(0, self.dim)
        place = {text: i for i, text in enumerate(texts)}
        vectors_ND = self.encoder.encode([Description(text) for text in texts])
        nothing_D = vectors_ND.new_zeros(vectors_ND.shape[1])
        rows = []
        for described, shown in parts:
            means = [
                vectors_ND[[place[text] for text in part]].mean(0) if part else nothing_D
                for part in (described, shown)
            ]
            flags = vectors_ND.new_tensor([float(bool(described)), float(bool(shown))])
            rows.append(torch.cat([*means, flags]))
        return torch.stack(rows)


def _texts(cue: Cue) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of a cue's description and of its examples."""
    match cue:
        case Description(text):
            described, shown = text, ()
        case Examples(pairs, text):
            described, shown = (
                text,
                tuple(f"{prompt} -> {answer}" if answer else prompt for prompt, answer in pairs),
            )
        case _:
            raise CueError(f"this encoder reads descriptions and examples, got {type(cue).__name__}")
    if not (described.strip() or any(text.strip() for text in shown)):
        raise CueError("the cue is empty; say in words what the adapter should do, or show examples")
    return ((described,) if described.strip() else ()), tuple(text for text in shown if text.strip())
