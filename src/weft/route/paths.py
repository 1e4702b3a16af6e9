"""The shape of a binary tree, told by its leaves: each leaf is named by the turns that lead to it.

`0` is left, `1` is right: a full tree of depth 2 has the leaves 00, 01, 10 and 11. Every proper beginning
of a leaf's path is a node, the root is the empty path. Leaves may lie at different depths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest

MAX_DEPTH = 12
"""Turns on a path; a full tree of this depth has 4096 leaves."""

Paths = tuple[str, ...]


def full(depth: int) -> Paths:
    """The 2^depth leaves of a full tree, from left to right. Raises ConfigError for a depth out of range."""
    if not 0 <= depth <= MAX_DEPTH:
        raise ConfigError(f"a tree has a depth of 0 to {MAX_DEPTH}, got {depth}")
    return tuple(f"{leaf:0{depth}b}" for leaf in range(2**depth)) if depth else ("",)


def nodes_of(leaves: Sequence[str]) -> Paths:
    """The nodes above the leaves, level by level: the order of a tree's weights."""
    nodes = {leaf[:turn] for leaf in leaves for turn in range(len(leaf))}
    return tuple(sorted(nodes, key=lambda node: (len(node), node)))


def check_leaves(leaves: Sequence[str]) -> None:
    """Raise ConfigError unless every way down from the root ends in exactly one leaf."""
    if not leaves:
        raise ConfigError("a tree needs at least one leaf")
    for leaf in leaves:
        if not set(leaf) <= {"0", "1"} or len(leaf) > MAX_DEPTH:
            raise ConfigError(f"{leaf[:40]!r} is no leaf: a path has at most {MAX_DEPTH} turns, each 0 or 1")
    ends = set(leaves)
    if len(ends) < len(leaves):
        raise ConfigError("two leaves of a tree have the same path")
    nodes = set(nodes_of(leaves))
    for node in nodes:
        if node in ends:
            raise ConfigError(f"the path {node!r} is a leaf and also leads on to others")
        for turn in "01":
            if node + turn not in nodes | ends:
                raise ConfigError(f"the path {node + turn!r} leads to no leaf")


def turns(leaves: Sequence[str]) -> tuple[Tensor, Tensor]:
    """`right_NK` and `left_NK`: 1 where the way to leaf k turns right (left) at node n, else 0."""
    place = {node: n for n, node in enumerate(nodes_of(leaves))}
    right_NK = torch.zeros(len(place), len(leaves))
    left_NK = torch.zeros(len(place), len(leaves))
    for k, leaf in enumerate(leaves):
        for turn, side in enumerate(leaf):
            (right_NK if side == "1" else left_NK)[place[leaf[:turn]], k] = 1
    return right_NK, left_NK


def index_of(leaves: Sequence[str], leaf: str) -> int:
    """Where a leaf stands. Raises UnknownNameError."""
    if leaf not in leaves:
        raise UnknownNameError(
            f"no leaf {leaf!r}{nearest(leaf, leaves)}; there are {', '.join(map(repr, leaves))}"
        )
    return leaves.index(leaf)


def split(leaves: Sequence[str], leaf: str) -> Paths:
    """The leaf becomes its own left child in its place; the right child comes last.

    Raises UnknownNameError, ConfigError at the greatest depth.
    """
    place = index_of(leaves, leaf)
    if len(leaf) == MAX_DEPTH:
        raise ConfigError(f"leaf {leaf!r} lies {MAX_DEPTH} turns deep, it cannot split")
    return (*leaves[:place], leaf + "0", *leaves[place + 1 :], leaf + "1")


def lift(path: str, dropped: str) -> str:
    """What a path of the tree becomes when a leaf goes and its sibling takes the place of their parent."""
    parent = dropped[:-1]
    sibling = parent + ("0" if dropped[-1] == "1" else "1")
    return parent + path[len(sibling) :] if path.startswith(sibling) else path
