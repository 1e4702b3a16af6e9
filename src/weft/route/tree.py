"""A binary tree of adapters: each node is a sigmoid classifier, each leaf a LoRA.

Fast feedforward networks (Belcak and Wattenhofer 2023, arXiv 2308.14711), section 3, with adapters as leaves:

    p_n = sigmoid((v_n . x + c_n) / temperature)                      the chance to turn right at node n
    soft:  w_k = prod over the way to leaf k of p_n (right) or 1 - p_n (left)
    hard:  w_k = 1 for the leaf where every turn is right just when v_n . x + c_n >= 0, else 0
    y = W x + sum_k w_k B_k A_k x  (+ B_s A_s x, a shared leaf that is always on)

The decision is taken per token, in one layer for the whole model or in several layers, or once per sequence
from the mean of the prompt's input embeddings. The shared leaf is the master leaf of Charalampopoulos et al.
2024 (arXiv 2405.16836), here added with weight 1 and not blended in.

Departs from the paper in: x is scaled to unit root mean square before the nodes, so that one start and one
learning rate serve any base; one decision serves many matrices; c_n starts at 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weft.errors import ConfigError, ShapeError
from weft.route.follow import follow
from weft.route.paths import check_leaves, nodes_of, turns
from weft.types import (
    UNDECIDED,
    AbstractGate,
    Assignment,
    Bank,
    Decision,
    Dense,
    Mixture,
    Rows,
    Site,
    State,
    Term,
    Tokens,
)

Scope = Literal["token", "sequence"]
Descent = Literal["soft", "hard"]

MIN_TEMPERATURE = 1e-6


class TreeGate(AbstractGate):
    """The nodes of a tree, N of them over K leaves; learned.

    Raises ConfigError for leaves that are no tree, or an option out of range.

    Args:
        leaves: Paths of the K leaves, a 0 or 1 for each turn; `full` names those of a full tree.
        dim: H, the length of what the nodes read.
        scope: "token" decides for each token in each of `layers`, by the input of the first site that runs
            there; a site follows the last deciding layer at or before its own. "sequence" decides once, by
            the mean input embedding of the prompt.
        layers: Numbers of the layers that decide, with scope "token".
        descent: "hard" takes one leaf, "soft" weighs all; may be set at any time.
        temperature: Of the sigmoids at the nodes.
        seed: Of the weights at the start.

    Example:
        >>> from weft.route import TreeGate, full
        >>> TreeGate(full(2), dim=192).leaves
        ('00', '01', '10', '11')
    """

    def __init__(
        self,
        leaves: Sequence[str],
        dim: int,
        *,
        scope: Scope = "token",
        layers: Sequence[int] = (0,),
        descent: Descent = "hard",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_leaves(leaves)
        if temperature < MIN_TEMPERATURE or not math.isfinite(temperature):
            raise ConfigError(f"a temperature is at least {MIN_TEMPERATURE} and finite, got {temperature}")
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise ConfigError(f"layers that decide are numbers from 0 in rising order, got {list(layers)}")
        super().__init__()
        self.leaves = tuple(leaves)
        self.scope: Scope = scope
        self.layers = tuple(layers) if scope == "token" else (0,)
        self.descent: Descent = descent
        self.temperature = temperature
        right_NK, left_NK = turns(leaves)
        self.right_NK: Tensor
        self.left_NK: Tensor
        self.register_buffer("right_NK", right_NK, persistent=False)
        self.register_buffer("left_NK", left_NK, persistent=False)
        shape = (len(self.layers), len(nodes_of(leaves)), dim)
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        self.weight_LNH = nn.Parameter(drawn * dim**-0.5)
        self.bias_LN = nn.Parameter(torch.zeros(shape[:2]))

    @property
    def dim(self) -> int:
        """H, the length of what the nodes read."""
        return self.weight_LNH.shape[2]

    def prepare(self, embeddings_BTH: Float[Tensor, "B T H"], mask_BT: Bool[Tensor, "B T"]) -> State:
        """Decide on the prompt, where the tree does so once per sequence."""
        if self.scope == "token":
            return UNDECIDED
        seen_BT1 = mask_BT[..., None].to(embeddings_BTH.dtype)
        mean_BH = (embeddings_BTH * seen_BT1).sum(1) / seen_BT1.sum(1).clamp(min=1)
        logits_BTN, assignment = self._decide(mean_BH[:, None], 0)
        match assignment:
            case Tokens(index_BT):
                assignment = Rows(index_BT[:, 0])
            case Dense(weight):
                assignment = Dense(weight[:, 0])
        return {0: Decision("", logits_BTN, assignment)}

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The leaf of every token or row (hard), or the weights of all leaves (soft).

        Raises ConfigError where a tree per sequence got no embeddings.
        """
        if self.scope == "sequence":
            if not state:
                raise ConfigError("a tree per sequence decides on embeddings; give `running` embeddings_BTH")
            return state[0].assignment, state

        def decide(group: int) -> tuple[Tensor, Assignment]:
            return self._decide(x_BTI, group)

        return follow(state, self.layers, site, decide, x_BTI.device)

    def _decide(self, x_BTH: Tensor, group: int) -> tuple[Tensor, Assignment]:
        if x_BTH.shape[-1] != self.dim:
            raise ShapeError(
                f"the tree reads {self.dim} features, layer {self.layers[group]} begins with a site of "
                f"{x_BTH.shape[-1]}; choose a layer or sites that begin with {self.dim}"
            )
        with torch.autocast(x_BTH.device.type, enabled=False):
            x_BTH = F.rms_norm(x_BTH.float(), (self.dim,), eps=1e-6)
            logits_BTN = F.linear(x_BTH, self.weight_LNH[group].float(), self.bias_LN[group].float())
            if self.descent == "hard":
                return logits_BTN, Tokens(self.leaf_of(logits_BTN))
            return logits_BTN, Dense(self.weights_of(logits_BTN))

    def weights_of(self, logits_BTN: Float[Tensor, "B T N"]) -> Float[Tensor, "B T K"]:
        """Soft descent: the product of the turns on the way to each leaf; each token's weights sum to 1."""
        logits_BTN = logits_BTN / self.temperature
        # sigmoid(-z) = 1 - sigmoid(z): a product down the tree is a sum of logarithms, one GEMM each way.
        return (F.logsigmoid(logits_BTN) @ self.right_NK + F.logsigmoid(-logits_BTN) @ self.left_NK).exp()

    def leaf_of(self, logits_BTN: Float[Tensor, "B T N"]) -> Int[Tensor, "B T"]:
        """Hard descent: the leaf where every turn is the likelier one; a tie turns right."""
        goes_right_BTN = (logits_BTN >= 0).to(self.right_NK.dtype)
        taken_BTK = goes_right_BTN @ self.right_NK + (1 - goes_right_BTN) @ self.left_NK
        return (taken_BTK - (self.right_NK + self.left_NK).sum(0)).argmax(-1)


@dataclass(frozen=True, eq=False)
class Tree:
    """Leaves, the nodes above them, and perhaps a shared leaf that is always on.

    Adapter k of `leaves` lies at `gate.leaves[k]`. Raises ShapeError where they do not fit each other.
    """

    leaves: Bank
    gate: TreeGate
    shared: Bank | None = None

    def __post_init__(self) -> None:
        """Check that every leaf has its path."""
        if len(self.leaves) != len(self.gate.leaves):
            raise ShapeError(f"{len(self.leaves)} adapters for the {len(self.gate.leaves)} leaves of a tree")
        if self.shared is not None and len(self.shared) != 1:
            raise ShapeError(f"the shared leaf is one adapter, got {len(self.shared)}")
        if self.shared is not None and self.shared.sites != self.leaves.sites:
            raise ShapeError("the shared leaf and the leaves of a tree change different sites")

    @property
    def mixture(self) -> Mixture:
        """What a host runs: the leaves under the gate, plus the shared leaf."""
        terms = (Term(self.leaves, self.gate),)
        if self.shared is None:
            return Mixture(terms)
        device = self.gate.bias_LN.device
        always = Rows(torch.zeros(1, dtype=torch.long, device=device))
        return Mixture((*terms, Term(self.shared, always)))


def leaf_name(path: str) -> str:
    """The name of the leaf at a path: `leaf-010`; `leaf` for a tree of one."""
    return f"leaf-{path}" if path else "leaf"
