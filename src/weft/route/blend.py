"""Blend: a network from a request's vector to softmax weights over a labelled library, trained on task loss.

    q = e + F(e)     k_i = l_i + G l_i
    w = softmax_i(cos(q, k_i) / temperature)     y = W x + sum_i w_i B_i A_i x

e is the vector of the request, l_i that of adapter i's label, both by one encoder. F is a perceptron of one
hidden layer and G a matrix; their last weights start at 0, so the network begins as retrieval by label and
learns what that gets wrong. Keys follow from labels: adapters may come and go without another training.

It is the attention of AdapterFusion (Pfeiffer et al. 2021, arXiv 2005.00247), moved from hidden states to the
request.

Departs from the paper in: one set of weights for all sites; keys from labels, not outputs; no value matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from weft.errors import ConfigError, ShapeError
from weft.types import AbstractEncoder, AbstractRouter, Bank, Cue, Description, Mixture


class Blend(nn.Module, AbstractRouter):
    """The network, and the labels of the library: `labels[name]` is the description of that adapter.

    Raises ConfigError for an option out of range.
    """

    def __init__(
        self,
        encoder: AbstractEncoder,
        labels: dict[str, str],
        *,
        hidden: int = 256,
        temperature: float = 0.1,
        seed: int = 0,
    ) -> None:
        if hidden < 1 or not 0 < temperature < float("inf"):
            raise ConfigError(f"hidden is 1 or more and temperature above 0, got {hidden} and {temperature}")
        super().__init__()
        # In a tuple, so that a frozen encoder is no part of the state.
        self._encoder = (encoder,)
        self.labels = dict(labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(encoder.dim, hidden)
        self.last = nn.Linear(hidden, encoder.dim, bias=False)
        self.key = nn.Linear(encoder.dim, encoder.dim, bias=False)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.key.weight)
        self.log_sharpness = nn.Parameter(torch.tensor(-math.log(temperature)))

    def encode(self, cues: Sequence[Cue | str]) -> Float[Tensor, "N D"]:
        """The encoder's unit vectors, on the network's device; text is a description."""
        made = [Description(cue) if isinstance(cue, str) else cue for cue in cues]
        return F.normalize(self._encoder[0].encode(made).to(self.log_sharpness), dim=-1)

    def forward(self, e_BD: Float[Tensor, "B D"], label_KD: Float[Tensor, "K D"]) -> Float[Tensor, "B K"]:
        """Weights that sum to 1 per row, from vectors of requests and labels; differentiable."""
        query_BD = F.normalize(e_BD + self.last(F.silu(self.first(e_BD))), dim=-1)
        key_KD = F.normalize(label_KD + self.key(label_KD), dim=-1)
        return (query_BD @ key_KD.mT * self.log_sharpness.exp()).softmax(-1)

    def weights(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """The same by name. Raises ShapeError for an empty library, ConfigError for a name without label."""
        if not names:
            raise ShapeError("there is no adapter to blend, the library is empty")
        missing = [name for name in names if name not in self.labels]
        if missing:
            raise ConfigError(f"adapter {missing[0]} has no label; add it to labels")
        return self(self.encode(requests), self.encode([self.labels[name] for name in names]))

    @torch.no_grad()
    def route(self, request: str, bank: Bank) -> Mixture:
        """The blend for one request, on every row. Raises what `weights` raises."""
        weight_BK = self.weights([request], bank.names)
        return Mixture.dense(bank, weight_BK.to(next(iter(bank.a.values()), weight_BK)))
