"""What trains a tree besides the task: harden the turns, keep the leaves in use; and what to watch.

    hardening = mean over tokens and nodes of  -p log p - (1 - p) log(1 - p)
    balance   = CV^2 = K * sum_k u_k^2 - 1          u_k: mean weight of leaf k over the tokens

Hardening is that of Belcak and Wattenhofer 2023 (arXiv 2308.14711), section 3; its factor rises from 0
over a training. Balance is the importance loss of Shazeer et al. 2017 (arXiv 1701.06538), equation 7: 0 when
all leaves carry the same weight, K - 1 when one carries all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def hardening(
    logits_BTN: Float[Tensor, "B T N"], mask_BT: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, ""]:
    """Mean entropy of the turns in nats, over the tokens where the mask is true; 0 for a tree of one leaf."""
    logits_MN = logits_BTN.flatten(0, 1) if mask_BT is None else logits_BTN[mask_BT]
    if not logits_MN.numel():
        return logits_MN.sum()
    return (F.softplus(logits_MN) - logits_MN * logits_MN.sigmoid()).mean()


def balance(
    weight_BTK: Float[Tensor, "B T K"], mask_BT: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, ""]:
    """Squared coefficient of variation of the leaves' shares, 0 to K - 1, over the tokens of the mask."""
    weight_MK = weight_BTK.flatten(0, 1) if mask_BT is None else weight_BTK[mask_BT]
    if not weight_MK.numel():
        return weight_MK.sum()
    return weight_MK.mean(0).square().sum() * weight_MK.shape[1] - 1


def counts(
    index_BT: Int[Tensor, "B T"], leaves: int, mask_BT: Bool[Tensor, "B T"] | None = None
) -> Int[Tensor, " K"]:
    """How many tokens each leaf has got; together all tokens of the mask."""
    index_M = index_BT.flatten() if mask_BT is None else index_BT[mask_BT]
    return torch.bincount(index_M, minlength=leaves)


def annealed(factor: float, step: int, steps: int) -> float:
    """A factor that rises in a straight line from 0 at step 0 to its full value at the last."""
    return factor * min(max(step / max(steps, 1), 0.0), 1.0)
