"""Gram matrices of the inputs of sites: what RegMean needs to know of the data of an adapter.

    G = sum over tokens of x x^T   [I, I]

Jin et al. 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models" (arXiv 2212.09849).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError
from weft.host.fisher import Batches, check_sites
from weft.host.host import Host
from weft.types import Mixture, Site


@torch.no_grad()
def input_gram(
    host: Host, mixture: Mixture | None, batches: Batches, *, sites: Sequence[Site] | None = None
) -> dict[Site, Float[Tensor, "I I"]]:
    """X^T X at every site (all of the host's unless given), in float64, over the tokens that the masks show.

    Raises ConfigError for no batches and for modules that see tokens without their rows, UnknownNameError
    for a site that is not the host's.
    """
    chosen = check_sites(host, sites)
    total = {
        s: torch.zeros(s.in_features, s.in_features, dtype=torch.float64, device=host.device) for s in chosen
    }
    shown: list[Tensor] = []
    hooks = [host.module.get_submodule(s.path).register_forward_hook(_add(total, shown, s)) for s in chosen]
    try:
        for batch in batches:
            ids_BT, mask_BT = batch[0].to(host.device), batch[1].to(host.device)
            shown[:] = [mask_BT.bool()]
            host(ids_BT, mixture, mask_BT=mask_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if not shown:
        raise ConfigError("there are no batches to collect Gram matrices from")
    return total


def _add(total: dict[Site, Tensor], shown: list[Tensor], site: Site) -> Any:
    def add(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].shape[:-1] != shown[0].shape:
            raise ConfigError(f"{site.path} sees tokens without their rows; leave it out of `sites`")
        x_NI = inputs[0][shown[0]].double()
        total[site] += x_NI.mT @ x_NI

    return add
