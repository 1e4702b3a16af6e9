"""One decision per token for many sites: made where a layer begins, followed by the sites after it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from weft.errors import ShapeError
from weft.types import Assignment, Decision, Rows, Site, State


def follow(
    state: State,
    layers: Sequence[int],
    site: Site,
    decide: Callable[[int], tuple[Tensor, Assignment]],
    device: torch.device,
) -> tuple[Assignment, State]:
    """The assignment of the last deciding layer at or before a site's own; the base before the first.

    In each of `layers` (sorted) the site that runs first decides, by `decide(n)` for the n-th of them; the
    state that is returned knows it. Sites outside the layers keep the base. Raises ShapeError where a
    deciding layer has no site.
    """
    group = bisect_right(layers, site.layer) - 1
    if site.layer < 0 or group < 0:
        return Rows(torch.full((1,), -1, device=device)), state
    if group not in state and site.layer != layers[group]:
        raise ShapeError(
            f"{site.path} follows layer {layers[group]}, where the bank has no site that could decide; "
            "let a layer decide that has one"
        )
    if group not in state or state[group].place == site.path:
        state = {**state, group: Decision(site.path, *decide(group))}
    return state[group].assignment, state
