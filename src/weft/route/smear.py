"""SMEAR: the router's weights average the experts themselves, so that plain gradients train the router.

Soft merging of experts with adaptive routing (Muqeeth et al. 2023, arXiv 2306.03745), section 3:

    w = softmax(V mean(x) + c)        y = W x + (sum_k w_k B_k) (sum_k w_k A_k) x

Put it into a term with `combine="average"`; with "sum" it is an ordinary soft mixture. The mean is over the
prompt alone: over all tokens, a decoder would learn from the answer that it is to give.

Departs from the paper in: one router for the whole model, reading the prompt's input embeddings at unit root
mean square, in place of one per layer reading its hidden states.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weft.config import Config
from weft.errors import ConfigError
from weft.route.router_folder import AbstractSavedGate, GateParts, filled, read_gate
from weft.saved import Shapes
from weft.types import Assignment, Bank, Decision, Dense, Site, State


class Smear(AbstractSavedGate):
    """Weights for K = `count` experts, decided once per sequence; learned.

    All experts begin with about the same weight. Raises ConfigError for an option out of range.

    Args:
        count: K, how many experts.
        dim: H, the length of an embedding.
        expert_dropout: In training mode each expert of a row is left out with this chance, and the weights of
            the others grow to a sum of 1; where all would go, none does.
        seed: Of the weights at the start.

    Example:
        >>> from weft.route import Smear
        >>> from weft.types import Term
        >>> adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
        >>> bank = weft.Bank.stack(adapters, names=["reverse", "sort"])
        >>> term = Term(bank, Smear(count=2, dim=192), combine="average")
    """

    def __init__(self, count: int, dim: int, *, expert_dropout: float = 0.0, seed: int = 0) -> None:
        if count < 1 or dim < 1:
            raise ConfigError(f"a router needs an expert and a feature or more, got {count} and {dim}")
        if not 0 <= expert_dropout < 1:
            raise ConfigError(f"expert_dropout is a chance of 0 to below 1, got {expert_dropout}")
        super().__init__()
        self.expert_dropout = expert_dropout
        drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
        self.weight_KH = nn.Parameter(drawn * 0.1 * dim**-0.5)
        self.bias_K = nn.Parameter(torch.zeros(count))

    def prepare(self, embeddings_BTH: Float[Tensor, "B T H"], mask_BT: Bool[Tensor, "B T"]) -> State:
        """The weights of every row, from its prompt."""
        seen_BT1 = mask_BT[..., None].to(embeddings_BTH.dtype)
        mean_BH = (embeddings_BTH * seen_BT1).sum(1) / seen_BT1.sum(1).clamp(min=1)
        with torch.autocast(mean_BH.device.type, enabled=False):
            mean_BH = F.rms_norm(mean_BH.float(), mean_BH.shape[-1:], eps=1e-6)
            logits_BK = F.linear(mean_BH, self.weight_KH.float(), self.bias_K.float())
            weight_BK = logits_BK.softmax(-1)
        if self.training and self.expert_dropout:
            kept_BK = torch.rand_like(weight_BK) >= self.expert_dropout
            kept_BK = kept_BK | ~kept_BK.any(-1, keepdim=True)
            weight_BK = weight_BK * kept_BK
            weight_BK = weight_BK / weight_BK.sum(-1, keepdim=True)
        return {0: Decision("", logits_BK[:, None], Dense(weight_BK))}

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The row's weights, at every site. Raises ConfigError where no embeddings were given."""
        if not state:
            raise ConfigError("SMEAR decides on embeddings; give `running` the embeddings_BTH")
        return state[0].assignment, state

    def parts(self) -> GateParts:
        """What its folder holds."""
        options = _Options(expert_dropout=self.expert_dropout)
        return GateParts("smear", len(self.bias_K), self.state_dict(), options)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], bank: Bank) -> Smear:
        """Read a folder for its own library, frozen, on its device. Raises what `read_gate` raises."""
        options, tensors = read_gate(folder, "smear", bank, _Options, _shapes)
        gate = cls(len(bank), tensors["weight_KH"].shape[1], expert_dropout=options.expert_dropout)
        return filled(gate, tensors, bank)


class _Options(Config):
    expert_dropout: float


def _shapes(bank: Bank, options: _Options) -> Shapes:
    return {"weight_KH": (len(bank), None), "bias_K": (len(bank),)}
