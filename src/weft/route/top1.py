"""Hard top-1: each token goes to one adapter at weight 1; the router learns by a straight-through gradient.

    p = softmax(z)      forward   y = W x + B_i A_i x, i = argmax z
                        backward  as if y = W x + sum_k p_k B_k A_k x

with the logits z of `XLora`. Straight-through is Bengio et al. 2013 (arXiv 1308.3432); one expert per token
is the Switch of Fedus et al. 2021 (arXiv 2101.03961), which scales the expert by p_i. An adapter that was
trained at weight 1 is wrong at any other, so here the scale is exactly 1.

Departs from Switch in: unit scale; every adapter has a say in the gradient, which costs all of them in
training and one of them afterwards; no capacity limit.
"""

from __future__ import annotations

import os

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from weft.config import Config
from weft.route.follow import follow
from weft.route.router_folder import AbstractSavedGate, GateParts, filled, read_gate
from weft.route.xlora import XLora, logit_shapes
from weft.saved import Shapes
from weft.types import Assignment, Bank, Dense, Site, State, Tokens


def straight_through(logits_BTK: Float[Tensor, "B T K"]) -> Float[Tensor, "B T K"]:
    """Exactly 1 for the largest logit of each token and 0 for the others; the gradient is the softmax's."""
    chance_BTK = logits_BTK.softmax(-1)
    chosen_BTK = F.one_hot(logits_BTK.argmax(-1), logits_BTK.shape[-1]).to(logits_BTK)
    # In this order nothing is rounded: the difference is 0 to the bit.
    return chosen_BTK + (chance_BTK - chance_BTK.detach())


class Top1(AbstractSavedGate):
    """One adapter per token, by the logits of an `XLora`, whose `top_k` plays no part.

    While in training mode all adapters run, so that the gradient can tell what the others would have done.
    """

    def __init__(self, router: XLora) -> None:
        super().__init__()
        self.router = router

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The adapter of every token, decided here or in an earlier layer."""

        def decide(group: int) -> tuple[Tensor, Assignment]:
            logits_BTK = self.router.logits(x_BTI, group)
            if self.training:
                return logits_BTK, Dense(straight_through(logits_BTK))
            return logits_BTK, Tokens(logits_BTK.argmax(-1))

        return follow(state, self.router.layers, site, decide, x_BTI.device)

    def parts(self) -> GateParts:
        """What its folder holds."""
        options = _Options(layers=self.router.layers, temperature=self.router.temperature)
        return GateParts("top1", self.router.bias_LK.shape[1], self.router.state_dict(), options)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], bank: Bank) -> Top1:
        """Read a folder for its own library, frozen, on its device. Raises what `read_gate` raises."""
        options, tensors = read_gate(folder, "top1", bank, _Options, _shapes)
        router = XLora(len(bank), tensors["weight_LKH"].shape[2], **options.model_dump())
        return cls(filled(router, tensors, bank)).eval()


class _Options(Config):
    layers: tuple[int, ...]
    temperature: float


def _shapes(bank: Bank, options: _Options) -> Shapes:
    return logit_shapes(bank, options.layers)
