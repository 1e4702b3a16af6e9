"""One decision per token for many sites: made where a layer begins, followed by the sites after it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weft.errors import ConfigError, ShapeError
from weft.types import Assignment, Rows, Site


class Decided(NamedTuple):
    """What was decided at one place, for the tokens of the latest forward."""

    place: str
    """Module path of the site that decides; empty for a decision on the prompt's embeddings."""
    logits: Tensor
    """What the decision follows from, in float32: [B, T, N]."""
    assignment: Assignment


Decisions = dict[int, Decided]
"""By number of the deciding layer. Made anew for every cache, and filled in while forwards run."""


def follow(
    decisions: Decisions | None,
    layers: Sequence[int],
    site: Site,
    decide: Callable[[int], tuple[Tensor, Assignment]],
    device: torch.device,
) -> Assignment:
    """The assignment of the last deciding layer at or before a site's own; the base before the first.

    In each of `layers` (sorted) the site that runs first decides, by `decide(n)` for the n-th of them. Sites
    outside the layers keep the base. Raises ConfigError where there is no place to remember decisions,
    ShapeError where a deciding layer has no site.
    """
    if decisions is None:
        raise ConfigError("this gate remembers what it decides; give `running` the embeddings_BTH")
    group = bisect_right(layers, site.layer) - 1
    if site.layer < 0 or group < 0:
        return Rows(torch.full((1,), -1, device=device))
    if group not in decisions and site.layer != layers[group]:
        raise ShapeError(
            f"{site.path} follows layer {layers[group]}, where the bank has no site that could decide; "
            "let a layer decide that has one"
        )
    if group not in decisions or decisions[group].place == site.path:
        decisions[group] = Decided(site.path, *decide(group))
    return decisions[group].assignment
