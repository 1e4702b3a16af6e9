"""A top-1 mixture of adapters, which a tree is compared with: one softmax over all, the best one taken.

Switch Transformer (Fedus et al. 2021, arXiv 2101.03961), equations 1 and 2, with adapters as experts:

    p = softmax(V x + c)        y = W x + p_i B_i A_i x        i = argmax p

The weight p_i is what carries gradient to the router.

Departs from the paper in: one decision per layer serves all its sites; no capacity limit; x at unit root mean
square; no jitter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weft.route.place import Decisions, follow
from weft.route.tree import Descent, Scope
from weft.types import AbstractGate, Assignment, Site, TopK


class Switch(AbstractGate):
    """One of the `leaves` per token, decided in each of `layers`; learned. Read like a tree's gate."""

    scope: Scope = "token"
    descent: Descent = "soft"
    """It has one descent, and it always carries gradient."""

    def __init__(self, leaves: Sequence[str], dim: int, *, layers: Sequence[int], seed: int) -> None:
        super().__init__()
        self.leaves = tuple(leaves)
        self.layers = tuple(layers)
        shape = (len(self.layers), len(self.leaves), dim)
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        self.weight_LKH = nn.Parameter(drawn * dim**-0.5)
        self.bias_LK = nn.Parameter(torch.zeros(shape[:2]))

    def prepare(self, embeddings_BTH: Float[Tensor, "B T H"], mask_BT: Bool[Tensor, "B T"]) -> Decisions:
        """Make room for what the tokens decide."""
        return {}

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: Any) -> Assignment:
        """The expert of every token and its weight, decided here or in an earlier layer."""

        def decide(group: int) -> tuple[Tensor, Assignment]:
            x_BTH = F.rms_norm(x_BTI.float(), x_BTI.shape[-1:], eps=1e-6)
            logits_BTK = F.linear(x_BTH, self.weight_LKH[group], self.bias_LK[group])
            best_BT1, index_BT1 = self.weights_of(logits_BTK).max(-1, keepdim=True)
            return logits_BTK, TopK(index_BT1, best_BT1)

        return follow(state, self.layers, site, decide, x_BTI.device)

    def weights_of(self, logits_BTK: Float[Tensor, "B T K"]) -> Float[Tensor, "B T K"]:
        """The share of every expert."""
        return logits_BTK.softmax(-1)

    def leaf_of(self, logits_BTK: Float[Tensor, "B T K"]) -> Int[Tensor, "B T"]:
        """The expert that is taken."""
        return logits_BTK.argmax(-1)
