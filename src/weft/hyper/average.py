"""One hypernetwork from several: the mean of their weights.

Wortsman et al. 2022, "Model soups" (arXiv 2203.05482), uniform:

    theta = 1/N sum_n theta_n

for networks that were trained on from one start, so that they lie in one valley. It costs nothing when used,
and joins what a later training has learned with what it has forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch

from weft.errors import BaseMismatchError, ConfigError, WeightsError
from weft.hyper.hypernetwork import HyperNetwork


@torch.no_grad()
def average(networks: Sequence[HyperNetwork]) -> HyperNetwork:
    """A new hypernetwork with the mean weights, in evaluation mode; all else is that of the first.

    Raises ConfigError for none, or for other networks or sites, BaseMismatchError for other bases,
    WeightsError for encoders with other weights.
    """
    if not networks:
        raise ConfigError("there is no hypernetwork to average")
    first = networks[0]
    for other in networks[1:]:
        if other.network.config != first.network.config or other.sites != first.sites:
            raise ConfigError(f"{other.name} has another network or other sites than {first.name}")
        if other.base != first.base:
            raise BaseMismatchError(f"{other.name} is for base {other.base}, {first.name} for {first.base}")
        if other.encoder.identity != first.encoder.identity:
            raise WeightsError(
                f"{other.name} reads vectors of {other.encoder.identity}, {first.name} of "
                f"{first.encoder.identity}"
            )
    made = deepcopy(first.network)
    states = [one.network.state_dict() for one in networks]
    made.load_state_dict({key: torch.stack([s[key] for s in states]).mean(0) for key in states[0]})
    about = {"base": first.base, "name": first.name, "provenance": first.provenance}
    return HyperNetwork(first.encoder, made, **about).eval()
