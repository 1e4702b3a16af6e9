"""A tree whose leaves lie on several devices: each token is sent to the leaf that it reached, and comes back.

The nodes decide where the base is, once. The leaves are cut, in the order of the bank, into as many stretches
as there are devices, whose lengths differ by one at most: in a full tree the subtrees from left to right. By
hard descent only a leaf's own tokens travel; by soft descent all tokens travel to every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from weft.errors import ConfigError
from weft.host.placed import Placed
from weft.route.tree import Tree
from weft.types import Bank, Mixture


def place_leaves(tree: Tree, devices: Sequence[str | torch.device]) -> Mixture:
    """What a host runs in place of `tree.mixture`: stretch i of the leaves lies on `devices[i]`.

    The nodes stay where they are, which has to be the device of the base, and the shared leaf joins them. The
    mixture is that of the tree as it is now: a leaf that moves to another device is a copy, through which
    gradient flows back. Raises what `check_devices` raises.
    """
    places = check_devices(devices, len(tree.leaves))
    base = tree.gate.bias_LN.device
    cuts = [len(tree.leaves) * i // len(places) for i in range(len(places) + 1)]
    parts = tuple(
        Placed(_part(tree.leaves, first, end, place), tree.gate, first=first)
        for place, first, end in zip(places, cuts, cuts[1:], strict=False)
    )
    _, *shared = replace(tree, shared=tree.shared and tree.shared.to(base)).mixture.terms
    return Mixture((*parts, *shared))


def check_devices(devices: Sequence[str | torch.device], leaves: int) -> list[torch.device]:
    """The devices for so many leaves. Raises ConfigError for none, too many, or one that cannot be used."""
    if not 1 <= len(devices) <= leaves:
        raise ConfigError(f"{len(devices)} leaf devices for a tree with {leaves} leaves; give 1 to {leaves}")
    return [_usable(device) for device in devices]


def _usable(device: str | torch.device) -> torch.device:
    try:
        there = torch.zeros((), device=device)
        there.item()  # fails on "meta", which computes nothing
    except (RuntimeError, AssertionError) as error:
        # Without CUDA, torch says so by an assertion.
        raise ConfigError(f"leaf device {device} cannot be used: {str(error).splitlines()[0]}") from error
    return there.device


def _part(leaves: Bank, first: int, end: int, device: torch.device) -> Bank:
    return Bank(
        names=leaves.names[first:end],
        a={site: a_KRI[first:end].to(device) for site, a_KRI in leaves.a.items()},
        b={site: b_KOR[first:end].to(device) for site, b_KOR in leaves.b.items()},
        base=leaves.base,
    )
