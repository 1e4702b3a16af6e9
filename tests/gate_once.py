"""A gate that the prompt decides, for any test that needs one."""

import torch
from torch import nn

from weft.types import AbstractGate, Decision, Dense


class Once(AbstractGate):
    """Weights of `count` adapters by the prompt's mean embedding and a random map."""

    def __init__(self, hidden: int, count: int, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.map = nn.Parameter(torch.randn(hidden, count, generator=rng))

    def prepare(self, embeddings_BTH, mask_BT):
        mean = (embeddings_BTH * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
        weight = (mean @ self.map).softmax(-1)
        return {0: Decision("", weight[:, None], Dense(weight))}

    def assign(self, x_BTI, site, state):
        return state[0].assignment, state
