"""LoraHub: weights for a whole library from a few examples, searched for without gradients.

Huang et al. 2023 (arXiv 2307.13269), sections 3.2 and 3.3:

    min over w in [-1.5, 1.5]^K of  loss(few examples; w) + 0.05 * mean_k |w_k|

with NGOpt of nevergrad, around w = 0. What w weighs is the caller's choice in `Mixture.dense`: "sum", the sum
of deltas sum_k w_k B_k A_k, or "average", the paper's (sum_k w_k B_k)(sum_k w_k A_k), quadratic in w.

Departs from the paper in: the sum of deltas unless asked otherwise; the best weights that were tried are
returned, not the optimizer's guess at better ones; candidates may share a forward, and then CMA-ES searches,
as it does wherever NGOpt's own choice is not COBYLA.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, MissingExtraError, ShapeError


class Found(NamedTuple):
    """What a search has found."""

    weight_K: Float[Tensor, " K"]
    objective: float
    """Loss and penalty of these weights."""
    objectives: tuple[float, ...]
    """Of all that were tried, in order."""


def search(
    loss: Callable[[Float[Tensor, "N K"]], Float[Tensor, " N"]],
    count: int,
    *,
    budget: int = 40,
    at_once: int = 1,
    bound: float = 1.5,
    penalty: float = 0.05,
    seed: int = 0,
) -> Found:
    """Try `budget` weights for K = `count` adapters and return the best; the same seed tries the same ones.

    `loss` takes N candidates, `at_once` or fewer, and gives the mean loss of the examples under each. Raises
    MissingExtraError without nevergrad, ConfigError for an option out of range, ShapeError for a loss that is
    NaN or infinite, or one of another shape.
    """
    if count < 1:
        raise ConfigError(f"there is no adapter to weigh, the library holds {count}")
    if not 1 <= at_once <= budget:
        raise ConfigError(
            f"budget and at_once are 1 or more, at_once the smaller; got {budget} and {at_once}"
        )
    if not 0 < bound < float("inf") or not 0 <= penalty < float("inf"):
        raise ConfigError(f"bound is above 0 and penalty 0 or more, got {bound} and {penalty}")
    optimizer = _optimizer(count, budget, at_once, bound, seed)
    best_K, best, tried = torch.zeros(count), float("inf"), list[float]()
    with warnings.catch_warnings():
        # The search methods behind NGOpt warn about settings that NGOpt itself has made.
        warnings.filterwarnings("ignore", module=r"nevergrad|scipy|cma")
        while len(tried) < budget:
            asked = [optimizer.ask() for _ in range(min(at_once, budget - len(tried)))]
            weight_NK = torch.tensor(np.stack([one.value for one in asked]), dtype=torch.float32)
            loss_N = loss(weight_NK).detach().double().cpu()
            if loss_N.shape != (len(asked),) or not torch.isfinite(loss_N).all():
                raise ShapeError(
                    f"the loss of {len(asked)} candidates is {loss_N.tolist()}, not a finite number for each"
                )
            for one, weight_K, own in zip(asked, weight_NK, loss_N.tolist(), strict=True):
                objective = own + penalty * float(weight_K.abs().mean())
                optimizer.tell(one, objective)
                tried.append(objective)
                if objective < best:
                    best_K, best = weight_K, objective
    return Found(best_K, best, tuple(tried))


def _optimizer(count: int, budget: int, at_once: int, bound: float, seed: int) -> Any:
    # Here, because the import takes seconds and nothing else needs it.
    try:
        import nevergrad
    except ImportError as error:
        raise MissingExtraError('LoraHub searches with nevergrad; pip install "weft[route]"') from error
    weights = nevergrad.p.Array(init=np.zeros(count), lower=-bound, upper=bound)
    weights.random_state.seed(seed)
    chosen: Any = nevergrad.optimizers.NGOpt(parametrization=weights, budget=budget, num_workers=at_once)
    if chosen.optim.name == "Cobyla":
        return chosen
    # The other choices fit a model to what was tried, and in nevergrad 1.0.12 that fails under NumPy 2.
    return nevergrad.optimizers.CMA(parametrization=weights, budget=budget, num_workers=at_once)
