"""What trains a tree besides the task: an even start, hard turns, leaves in use; and what to watch.

    hardening = mean over tokens and nodes of  -p log p - (1 - p) log(1 - p)
    balance   = K * sum_k f_k u_k - 1      f_k: share of the tokens that hard descent sends to leaf k
                                           u_k: mean weight of leaf k by soft descent
    even start: the bias of a node is -median(v_n . x) over the tokens that arrive there by hard descent
    rebalance:  after a step the bias of a node moves against (tokens that went right) / (that arrived) - 1/2

Hardening is that of Belcak and Wattenhofer 2023 (arXiv 2308.14711), section 3; its factor rises from 0
over a training. Balance is the loss of the Switch Transformer (Fedus et al. 2021, arXiv 2101.03961), equation
4, with leaves as experts: soft shares can be even where hard ones are not, so hard shares say which leaf has
too much and soft weights carry the gradient. The even start is our own: hyperplanes through the origin would
begin with leaves of several times the mean load. Rebalance is the loss-free balancing of Wang et al. 2024
(arXiv 2408.15664), for turns in the place of experts: the balance term moves v_n as well, this does not.

Departs from the papers in: balance is less 1, so that it is 0 for even loads; rebalance moves by the share
itself, not by its sign, and its biases count in the weights too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft.route.paths import nodes_of


def hardening(
    logits_BTN: Float[Tensor, "B T N"], mask_BT: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, ""]:
    """Mean entropy of the turns in nats, over the tokens where the mask is true; 0 for a tree of one leaf."""
    logits_MN = logits_BTN.flatten(0, 1) if mask_BT is None else logits_BTN[mask_BT]
    if not logits_MN.numel():
        return logits_MN.sum()
    return (F.softplus(logits_MN) - logits_MN * logits_MN.sigmoid()).mean()


def balance(
    weight_BTK: Float[Tensor, "B T K"],
    index_BT: Int[Tensor, "B T"],
    mask_BT: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, ""]:
    """How uneven the hard loads are, weighed by soft shares: up to K - 1, over the tokens of the mask."""
    weight_MK = weight_BTK.flatten(0, 1) if mask_BT is None else weight_BTK[mask_BT]
    if not weight_MK.numel():
        return weight_MK.sum()
    tokens, leaves = weight_MK.shape
    share_K = counts(index_BT, leaves, mask_BT) / tokens
    return weight_MK.mean(0) @ share_K.to(weight_MK.dtype) * leaves - 1


def even_start(logits_MN: Float[Tensor, "M N"], leaves: Sequence[str]) -> Float[Tensor, " N"]:
    """What to add to the logits of M tokens so that each node sends half of what it gets either way.

    Equal logits stay together; a node that gets nothing keeps its 0.
    """
    added_N = logits_MN.new_zeros(logits_MN.shape[1])
    arrived = {"": logits_MN}
    for n, node in enumerate(nodes_of(leaves)):  # level by level: what arrives is known
        here_MN = arrived[node]
        if len(here_MN):
            added_N[n] = -here_MN[:, n].quantile(0.5)
        right_M = here_MN[:, n] + added_N[n] >= 0
        arrived[node + "1"], arrived[node + "0"] = here_MN[right_M], here_MN[~right_M]
    return added_N


def uneven_turns(
    load_LK: Int[Tensor, "L K"], right_NK: Float[Tensor, "N K"], left_NK: Float[Tensor, "N K"]
) -> Float[Tensor, "L N"]:
    """How much of what arrived at each node went right, less a half, by the gate's own turns.

    0 where nothing arrived.
    """
    load_LK = load_LK.to(right_NK)
    right_LN, left_LN = load_LK @ right_NK.mT, load_LK @ left_NK.mT
    share_LN = right_LN / (right_LN + left_LN).clamp(min=1) - 0.5
    return torch.where(right_LN + left_LN > 0, share_LN, 0.0)


def counts(
    index_BT: Int[Tensor, "B T"], leaves: int, mask_BT: Bool[Tensor, "B T"] | None = None
) -> Int[Tensor, " K"]:
    """How many tokens each leaf has got; together all tokens of the mask."""
    index_M = index_BT.flatten() if mask_BT is None else index_BT[mask_BT]
    return torch.bincount(index_M, minlength=leaves)


def annealed(factor: float, step: int, steps: int) -> float:
    """A factor that rises in a straight line from 0 at step 0 to its full value at the last."""
    return factor * min(max(step / max(steps, 1), 0.0), 1.0)
