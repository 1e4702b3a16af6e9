"""Routing by task embedding: a request goes to the adapters whose tasks lie nearest. Nothing is trained.

    w = softmax over the top k of cos(e(request), e(task_k)) / temperature        top 1: weight 1

As in retrieval over LoRA libraries (LoraRetriever, Zhao et al. 2024, arXiv 2402.09997; LoRAuter 2026, arXiv
2601.21795), with any encoder of `weft.embed`.

Departs from the papers in: a task's embedding is the mean of its cues' unit vectors; no tuned encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.files import nearest as offer
from weft.route.weigh import AbstractWeigher, check_choice, near_enough, top_weights, unit_vectors
from weft.types import AbstractEncoder, Cue


class Nearest(AbstractWeigher):
    """An index of task embeddings by adapter name; adding and removing touch no other entry.

    Raises ConfigError for an option out of range.

    Args:
        encoder: Turns descriptions and requests into vectors [D].
        top_k: 1 takes the nearest adapter as it is, more blend by the softmax; None is all.
        temperature: Of the softmax over cosines.
        threshold: A request with no such cosine, -1 to 1, gets no adapter; `weft.route.calibrate` finds one.

    Example:
        >>> from weft.embed import OneHot
        >>> from weft.route import Nearest
        >>> router = Nearest(OneHot(["sort it", "turn it round"]))
        >>> router.add("sort", ["sort it"])
        >>> router.add("reverse", ["turn it round"])
        >>> router.rank("turn it round")[0][0]
        'reverse'
    """

    def __init__(
        self,
        encoder: AbstractEncoder,
        *,
        top_k: int | None = 1,
        temperature: float = 0.1,
        threshold: float | None = None,
    ) -> None:
        check_choice(top_k, temperature)
        self.threshold = threshold
        self.encoder = encoder
        self.top_k = top_k
        self.temperature = temperature
        self._vectors: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in the index, in the order of their coming."""
        return tuple(self._vectors)

    @torch.no_grad()
    def add(self, name: str, cues: Sequence[Cue | str]) -> None:
        """Enter an adapter by what its task is made of: one cue or more, text being a description.

        Raises ConfigError for a name that is there or for no cues, ShapeError for a vector without direction.
        """
        if name in self._vectors:
            raise ConfigError(f"{name} is in the index; remove it first, or choose another name")
        if not cues:
            raise ConfigError(f"{name} needs at least one cue")
        self._vectors[name] = _unit(unit_vectors(self.encoder, cues).mean(0), name)

    def remove(self, name: str) -> None:
        """Take an adapter out. Raises UnknownNameError."""
        if name not in self._vectors:
            raise UnknownNameError(f"no adapter {name!r} in the index{offer(name, self._vectors)}")
        del self._vectors[name]

    @torch.no_grad()
    def cosines(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Of every request with every task of these names; the distance is 1 less the cosine.

        Raises ShapeError for no names, UnknownNameError for a name that is not in the index.
        """
        if not names:
            raise ShapeError("there is no adapter to choose from, the index is empty")
        for name in names:
            if name not in self._vectors:
                raise UnknownNameError(
                    f"no adapter {name!r} in the index{offer(name, self._vectors)}; add it first"
                )
        return unit_vectors(self.encoder, requests) @ torch.stack([self._vectors[name] for name in names]).mT

    def rank(self, request: Cue | str, names: Sequence[str] | None = None) -> list[tuple[str, float]]:
        """All adapters (or these) with their cosine to the request, nearest first.

        Equal cosines keep the order of the names. Raises what `cosines` raises.
        """
        names = self.names if names is None else names
        cosine_K = self.cosines([request], names)[0].tolist()
        return sorted(zip(names, cosine_K, strict=True), key=lambda pair: -pair[1])

    def weights(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Weights by nearness. Raises what `cosines` raises, ConfigError for a `top_k` above the library."""
        cosine_BK = self.cosines(requests, names)
        return near_enough(top_weights(cosine_BK, self.top_k, self.temperature), cosine_BK, self.threshold)


def _unit(e_D: Tensor, name: str) -> Tensor:
    length = float(e_D.norm())
    if not 0 < length < float("inf"):
        raise ShapeError(f"the embedding of {name} has the length {length}, so it points nowhere")
    return e_D / length
