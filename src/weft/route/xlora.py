"""A softmax over K adapters for each token, in one pass: X-LoRA's weights without its second forward.

Buehler and Buehler 2024 (arXiv 2402.07148), section 2, reads the last hidden state of a first pass without
adapters. Here the input of a deciding layer is read instead, and the layers from there on follow:

    w = softmax((V x + c) / temperature)        y = W x + sum_k w_k B_k A_k x

So the cache is kept and each token is read once. With `top_k` the best few act alone, at weights that sum to
1, or with `norm_topk_prob=False` at their shares among all K. The best one at its share is the Switch
Transformer (Fedus et al. 2021, arXiv 2101.03961), equations 1 and 2, without capacity limit and jitter; the
share carries the router's gradient.

Departs from the paper in: one pass; sites before the first deciding layer stay the base; x at unit root mean
square; a linear classifier, whose weights are shared by the sites that follow a layer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from weft.config import Config
from weft.errors import ConfigError, ShapeError
from weft.route.follow import follow
from weft.route.router_folder import AbstractSavedGate, GateParts, filled, read_gate
from weft.saved import Shapes
from weft.types import Assignment, Bank, Dense, Site, State, TopK


class XLora(AbstractSavedGate):
    """Weights for K = `count` adapters per token, decided in each of `layers`; learned.

    Raises ConfigError for an option out of range.

    Args:
        count: K, how many adapters.
        dim: H, the length of what the gate reads.
        layers: Numbers of the layers that decide.
        top_k: Keeps the best few; None keeps all.
        norm_topk_prob: Whether the weights of those few are made to sum to 1.
        temperature: Of the softmax over adapters.
        seed: Of the weights at the start.

    Example:
        >>> from weft.route import XLora
        >>> from weft.types import Mixture, Term
        >>> adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
        >>> bank = weft.Bank.stack(adapters, names=["reverse", "sort"])
        >>> mixture = Mixture((Term(bank, XLora(count=2, dim=192, layers=(1,), top_k=1)),))
    """

    def __init__(
        self,
        count: int,
        dim: int,
        *,
        layers: Sequence[int] = (0,),
        top_k: int | None = None,
        norm_topk_prob: bool = True,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        if count < 1 or not 1 <= (count if top_k is None else top_k) <= count:
            raise ConfigError(f"top_k is {top_k} of {count} adapters; it is from 1 to their number")
        if not 0 < temperature < float("inf"):
            raise ConfigError(f"a temperature is above 0 and finite, got {temperature}")
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise ConfigError(f"layers that decide are numbers from 0 in rising order, got {list(layers)}")
        super().__init__()
        self.layers = tuple(layers)
        self.top_k = top_k
        self.norm_topk_prob = norm_topk_prob
        self.temperature = temperature
        drawn = torch.rand(len(layers), count, dim, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        self.weight_LKH = nn.Parameter(drawn * dim**-0.5)
        self.bias_LK = nn.Parameter(torch.zeros(len(layers), count))

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The weights of every token, decided here or in an earlier layer."""

        def decide(group: int) -> tuple[Tensor, Assignment]:
            return self._decide(x_BTI, group)

        return follow(state, self.layers, site, decide, x_BTI.device)

    def logits(self, x_BTH: Float[Tensor, "B T H"], group: int) -> Float[Tensor, "B T K"]:
        """Scores of all adapters over the temperature, by the `group`-th deciding layer, in float32.

        Raises ShapeError for vectors of another length.
        """
        dim = self.weight_LKH.shape[2]
        if x_BTH.shape[-1] != dim:
            raise ShapeError(f"the router reads {dim} features, this site has {x_BTH.shape[-1]}")
        with torch.autocast(x_BTH.device.type, enabled=False):
            x_BTH = F.rms_norm(x_BTH.float(), (dim,), eps=1e-6)
            logits_BTK = F.linear(x_BTH, self.weight_LKH[group].float(), self.bias_LK[group].float())
            return logits_BTK / self.temperature

    def parts(self) -> GateParts:
        """What its folder holds."""
        options = _Options(
            layers=self.layers,
            top_k=self.top_k,
            norm_topk_prob=self.norm_topk_prob,
            temperature=self.temperature,
        )
        return GateParts("xlora", self.bias_LK.shape[1], self.state_dict(), options)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], bank: Bank) -> XLora:
        """Read a folder for its own library, frozen, on its device. Raises what `read_gate` raises."""
        options, tensors = read_gate(folder, "xlora", bank, _Options, _shapes)
        gate = cls(len(bank), tensors["weight_LKH"].shape[2], **options.model_dump())
        return filled(gate, tensors, bank)

    def _decide(self, x_BTH: Tensor, group: int) -> tuple[Tensor, Assignment]:
        logits_BTK = self.logits(x_BTH, group)
        if self.top_k is None:
            return logits_BTK, Dense(logits_BTK.softmax(-1))
        if self.norm_topk_prob:
            best_BTk, index_BTk = logits_BTK.topk(self.top_k, dim=-1)
            return logits_BTK, TopK(index_BTk, best_BTk.softmax(-1))
        weight_BTk, index_BTk = logits_BTK.softmax(-1).topk(self.top_k, dim=-1)
        return logits_BTK, TopK(index_BTk, weight_BTk)


class _Options(Config):
    layers: tuple[int, ...]
    top_k: int | None
    norm_topk_prob: bool = True
    temperature: float


def _shapes(bank: Bank, options: _Options) -> Shapes:
    return logit_shapes(bank, options.layers)


def logit_shapes(bank: Bank, layers: Sequence[int]) -> Shapes:
    """The shapes of the parameters of an `XLora` over a bank."""
    return {"weight_LKH": (len(layers), len(bank), None), "bias_LK": (len(layers), len(bank))}
