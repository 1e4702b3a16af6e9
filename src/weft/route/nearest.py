"""Routing by task embedding: a request goes to the adapters whose tasks lie nearest. Nothing is trained.

    w = softmax over the top k of cos(e(request), e(task_k)) / temperature        top 1: weight 1

As in retrieval over LoRA libraries (LoraRetriever, Zhao et al. 2024, arXiv 2402.09997; LoRAuter 2026, arXiv
2601.21795), with any encoder of `weft.embed`.

Departs from the papers in: a task's embedding is the mean of its cues' unit vectors; no tuned encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.files import nearest as offer
from weft.types import AbstractEncoder, AbstractRouter, Bank, Cue, Description, Mixture


class Nearest(AbstractRouter):
    """An index of task embeddings by adapter name; adding and removing touch no other entry.

    `top_k` 1 takes the nearest adapter as it is, more blend by the softmax. Raises ConfigError for an option
    out of range.
    """

    def __init__(self, encoder: AbstractEncoder, *, top_k: int = 1, temperature: float = 0.1) -> None:
        if top_k < 1:
            raise ConfigError(f"top_k is 1 or more, got {top_k}")
        if not 0 < temperature < float("inf"):
            raise ConfigError(f"a temperature is above 0 and finite, got {temperature}")
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
        self._vectors[name] = _unit(_encode(self.encoder, cues).mean(0), name)

    def remove(self, name: str) -> None:
        """Take an adapter out. Raises UnknownNameError."""
        if name not in self._vectors:
            raise UnknownNameError(f"no adapter {name!r} in the index{offer(name, self._vectors)}")
        del self._vectors[name]

    @torch.no_grad()
    def rank(self, request: Cue | str, names: Sequence[str] | None = None) -> list[tuple[str, float]]:
        """All adapters (or these) with their cosine to the request, nearest first.

        Raises ShapeError for an empty index, UnknownNameError for a name that is not in it.
        """
        names = self.names if names is None else names
        if not names:
            raise ShapeError("there is no adapter to choose from, the index is empty")
        for name in names:
            if name not in self._vectors:
                raise UnknownNameError(
                    f"no adapter {name!r} in the index{offer(name, self._vectors)}; add it first"
                )
        e_D = _encode(self.encoder, [request])[0]
        cosine_K = (torch.stack([self._vectors[name] for name in names]) @ e_D).tolist()
        return sorted(zip(names, cosine_K, strict=True), key=lambda pair: -pair[1])

    def route(self, request: str, bank: Bank) -> Mixture:
        """The nearest of a bank's adapters, on every row. Raises what `rank` raises, and ConfigError."""
        if self.top_k > len(bank):
            raise ConfigError(f"top_k is {self.top_k}, a bank of {len(bank)} allows 1 to {len(bank)}")
        best = self.rank(request, bank.names)[: self.top_k]
        index = [bank.names.index(name) for name, _ in best]
        if self.top_k == 1:
            return Mixture.rows(bank, index)
        weight_k = (torch.tensor([cosine for _, cosine in best]) / self.temperature).softmax(-1)
        like = next(iter(bank.a.values())) if bank.a else weight_k
        weight_BK = like.new_zeros(1, len(bank))
        weight_BK[0, index] = weight_k.to(like)
        return Mixture.dense(bank, weight_BK)


def _encode(encoder: AbstractEncoder, cues: Sequence[Cue | str]) -> Float[Tensor, "N D"]:
    """Unit vectors of cues, on the CPU."""
    made = [Description(cue) if isinstance(cue, str) else cue for cue in cues]
    return F.normalize(encoder.encode(made).float().cpu(), dim=-1)


def _unit(e_D: Tensor, name: str) -> Tensor:
    length = float(e_D.norm())
    if not 0 < length < float("inf"):
        raise ShapeError(f"the embedding of {name} has the length {length}, so it points nowhere")
    return e_D / length
