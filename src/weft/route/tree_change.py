"""Changing a grown tree: a leaf splits, a leaf is pruned, leaves go out as PEFT folders. Pure functions.

A split gives two leaves with the same factors under a new node. Whatever the node says, soft or hard, the
two together do what the one did, so nothing changes at that moment. The node starts at random, since two
equal leaves that get equal shares would receive equal gradients and never part.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from weft.adapters import concat, save
from weft.errors import ConfigError, SaveError
from weft.route.paths import index_of, lift, nodes_of, split
from weft.route.tree import Tree, TreeGate, leaf_name
from weft.types import Factors


@torch.no_grad()
def grow(tree: Tree, leaf: str, *, seed: int = 0) -> Tree:
    """A tree where the leaf at a path has become two equal ones; the new tree shares no memory with the old.

    Raises UnknownNameError for a path that is no leaf, ConfigError at the greatest depth.
    """
    leaves = split(tree.gate.leaves, leaf)
    index_K = torch.tensor([*range(len(tree.leaves)), index_of(tree.gate.leaves, leaf)])
    origin = {node: node for node in nodes_of(tree.gate.leaves)}
    return _rebuilt(tree, leaves, index_K, origin, seed)


@torch.no_grad()
def prune(tree: Tree, leaf: str) -> Tree:
    """A tree without the leaf at a path; its sibling, with all below, moves up to where they parted.

    Raises UnknownNameError for a path that is no leaf, ConfigError for the last one.
    """
    gone = index_of(tree.gate.leaves, leaf)
    if len(tree.leaves) == 1:
        raise ConfigError("a tree keeps at least one leaf")
    kept = [k for k in range(len(tree.leaves)) if k != gone]
    leaves = tuple(lift(tree.gate.leaves[k], leaf) for k in kept)
    parent = leaf[:-1]
    origin = {lift(node, leaf): node for node in nodes_of(tree.gate.leaves) if node != parent}
    return _rebuilt(tree, leaves, torch.tensor(kept), origin, seed=0)


@torch.no_grad()
def export_leaves(tree: Tree, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Write every leaf as a PEFT folder, `folder/leaf-PATH`; returns the folders by path.

    The shared leaf is added to each, exactly and at the cost of its rank, so that a folder alone does what
    the leaf does in the tree. Raises SaveError when the disk refuses or a folder there is no adapter.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise SaveError(f"{target} is a file; leaves need a folder")
    written = {}
    for k, path in enumerate(tree.gate.leaves):
        adapter = tree.leaves[k]
        if tree.shared is not None:
            adapter = concat([adapter, tree.shared[0]], [1.0, 1.0])
        factors = {s: Factors(a.contiguous(), b.contiguous(), c) for s, (a, b, c) in adapter.factors.items()}
        name = leaf_name(path)
        save(replace(adapter, factors=factors, name=name, provenance={"leaf": path}), target / name)
        written[path] = target / name
    return written


def _rebuilt(tree: Tree, leaves: tuple[str, ...], index_K: Tensor, origin: dict[str, str], seed: int) -> Tree:
    """The tree of these leaves; `origin` tells which old node each node was, one without is new."""
    old = tree.gate
    gate = TreeGate(
        leaves,
        old.dim,
        scope=old.scope,
        layers=old.layers,
        descent=old.descent,
        temperature=old.temperature,
        seed=seed,
    ).to(old.weight_LNH)
    before = {node: n for n, node in enumerate(nodes_of(old.leaves))}
    for n, node in enumerate(nodes_of(leaves)):
        if node in origin:
            gate.weight_LNH[:, n] = old.weight_LNH[:, before[origin[node]]]
            gate.bias_LN[:, n] = old.bias_LN[:, before[origin[node]]]
    index_K = index_K.to(old.weight_LNH.device)
    bank = replace(tree.leaves.select(index_K), names=tuple(map(leaf_name, leaves)))
    shared = tree.shared
    if shared is not None:
        shared = shared.select(torch.zeros(1, dtype=torch.long, device=index_K.device))
    return Tree(bank, gate.train(old.training), shared)
