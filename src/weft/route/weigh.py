"""From scores to a mixture: what routers that weigh a whole library for each request share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, ShapeError
from weft.types import AbstractEncoder, AbstractRouter, Bank, Cue, Description, Mixture

FREE = ""
"""The name of a place in a bank that holds no adapter; see `LiveLibrary`."""


class AbstractWeigher(AbstractRouter):
    """A router that gives every adapter of a library a weight, for any number of requests at once."""

    encoder: AbstractEncoder
    """What turns requests into vectors."""
    top_k: int | None
    """How many adapters share a request; None is all of them, 1 the best one at weight 1."""
    threshold: float | None
    """A request whose cosine with every task is below it gets no adapter; None for no such bound."""

    @abstractmethod
    def cosines(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Of every request with the task of every adapter of these names."""

    @abstractmethod
    def weights(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Weights of the adapters of these names, each row summing to 1, or to 0: none of them."""

    def route(self, request: str, bank: Bank) -> Mixture:
        """The mixture for one request, on every row. Raises what `weights` raises."""
        return self.route_all([request], bank)

    @torch.no_grad()
    def route_all(self, requests: Sequence[Cue | str], bank: Bank) -> Mixture:
        """One row per request, each with its own weights; at most one adapter per row where no row has more.

        Raises ShapeError for no request, and what `weights` raises.
        """
        if not requests:
            raise ShapeError("there is no request to route, the list is empty")
        here = [k for k, name in enumerate(bank.names) if name != FREE]
        weight_BK = self.weights(requests, [bank.names[k] for k in here])
        like = next(iter(bank.a.values()), weight_BK)
        all_BK = like.new_zeros(len(requests), len(bank))
        all_BK[:, here] = weight_BK.to(like)
        none_B = ~all_BK.any(-1)
        best_B = all_BK.argmax(-1)
        if torch.equal(all_BK[~none_B], F.one_hot(best_B[~none_B], len(bank)).to(all_BK)):
            return Mixture.rows(bank, best_B.masked_fill(none_B, -1))
        return Mixture.dense(bank, all_BK)


def check_choice(top_k: int | None, temperature: float) -> None:
    """Raise ConfigError for a number of adapters or a temperature that cannot be."""
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is 1 or more, got {top_k}")
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"a temperature is above 0 and finite, got {temperature}")


def top_weights(
    score_BK: Float[Tensor, "B K"], top_k: int | None, temperature: float = 1.0
) -> Float[Tensor, "B K"]:
    """Softmax of score / temperature over the `top_k` best of each row, 0 elsewhere; alone, exactly 1.

    Raises ShapeError for an empty library or NaN, ConfigError for a `top_k` above its size.
    """
    count = score_BK.shape[1]
    if not count:
        raise ShapeError("there is no adapter to choose from, the library is empty")
    if top_k is not None and top_k > count:
        raise ConfigError(f"top_k is {top_k}, a bank of {count} allows 1 to {count}")
    if not torch.isfinite(score_BK).all():
        raise ShapeError("a score is NaN or infinite, so nothing can be chosen by it")
    if top_k is None:
        return (score_BK / temperature).softmax(-1)
    best_Bk, index_Bk = score_BK.topk(top_k, dim=-1)
    weight_Bk = (best_Bk / temperature).softmax(-1)
    return torch.zeros_like(score_BK).scatter(1, index_Bk, weight_Bk)


def near_enough(
    weight_BK: Float[Tensor, "B K"], cosine_BK: Float[Tensor, "B K"], threshold: float | None
) -> Float[Tensor, "B K"]:
    """The weights, 0 in every row whose request is nearer than the threshold to no task."""
    return weight_BK if threshold is None else weight_BK * (cosine_BK.amax(-1, keepdim=True) >= threshold)


def as_cues(cues: Sequence[Cue | str]) -> list[Cue]:
    """Cues, where text is a description."""
    return [Description(cue) if isinstance(cue, str) else cue for cue in cues]


def unit_vectors(encoder: AbstractEncoder, cues: Sequence[Cue | str]) -> Float[Tensor, "N D"]:
    """An encoder's vectors at unit length, in float32 on the CPU."""
    return F.normalize(encoder.encode(as_cues(cues)).float().cpu(), dim=-1)
