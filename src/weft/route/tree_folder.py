"""A tree as a folder: `config.json` says its shape, `model.safetensors` holds nodes and leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from weft.host import Host
from weft.route.paths import check_leaves, nodes_of
from weft.route.tree import Scope, Tree, TreeGate, leaf_name
from weft.saved import (
    WEIGHTS,
    Found,
    Saved,
    SavedSite,
    Shapes,
    check_base,
    describe,
    list_sites,
    read_tensors,
    write,
)
from weft.types import Bank, Site


class SavedTree(Saved):
    """What `config.json` holds."""

    sort: ClassVar[str] = "tree"
    kind: Literal["tree"]
    dim: int
    scope: Scope
    layers: tuple[int, ...]
    temperature: float
    leaves: tuple[str, ...]
    """The path of every leaf, in the order of the adapters."""
    shared: bool
    sites: tuple[SavedSite, ...]


def save_tree(
    tree: Tree,
    folder: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any] = MappingProxyType({}),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a tree; one that is there is replaced.

    Raises ShapeError for NaN or infinity, SaveError when the disk refuses or the folder holds other files;
    what was there stays whole.

    Args:
        tree: Its leaves and its gate.
        folder: Where it goes; made where it is not there.
        provenance: JSON values that are kept with it: recipe, seed, data hash, metrics.
        dtype: Number type of the leaves in the file.

    Example:
        >>> from weft.route import Tree, TreeGate, full, load_tree, save_tree
        >>> adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
        >>> leaves = weft.Bank.stack(adapters, names=["leaf-0", "leaf-1"])
        >>> save_tree(Tree(leaves, TreeGate(full(1), dim=192)), "tree")
        >>> load_tree("tree").gate.leaves
        ('0', '1')
    """
    values = {
        "kind": "tree",
        "base": tree.leaves.base,
        "dim": tree.gate.dim,
        "scope": tree.gate.scope,
        "layers": tree.gate.layers,
        "temperature": tree.gate.temperature,
        "leaves": tree.gate.leaves,
        "shared": tree.shared is not None,
        "sites": list_sites(tree.leaves.sites),
        "provenance": dict(provenance),
    }
    write(folder, SavedTree, values, _tensors(tree, dtype))


def load_tree(folder: str | os.PathLike[str], *, host: Host | None = None) -> Tree:
    """Read a tree, frozen, with hard descent.

    Raises MissingFileError, ConfigError, BaseMismatchError, and WeightsError for damage, NaN, or tensors
    other than the config asks for.

    Args:
        folder: What a tree was saved to, or the name of one that ships with Weft.
        host: The base that it has to be for; not compared unless given.

    Example:
        >>> from weft.route import Tree, TreeGate, full, load_tree, save_tree
        >>> adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
        >>> leaves = weft.Bank.stack(adapters, names=["leaf-0", "leaf-1"])
        >>> save_tree(Tree(leaves, TreeGate(full(1), dim=192)), "tree")
        >>> load_tree("tree").gate.leaves
        ('0', '1')
    """
    saved, found = describe(folder, SavedTree)
    check_leaves(saved.leaves)
    check_base(saved, found, host.fingerprint if host else "")
    sites = [Site(*values) for values in saved.sites]
    tensors = read_tensors(found / WEIGHTS, lambda shapes: _shapes(saved, sites, shapes))
    gate = TreeGate(
        saved.leaves,
        saved.dim,
        scope=saved.scope,
        layers=saved.layers,
        temperature=saved.temperature,
    )
    gate.load_state_dict({name: tensors[f"gate.{name}"] for name in gate.state_dict()})
    leaves = _bank(tensors, "leaves", tuple(map(leaf_name, saved.leaves)), sites, saved.base)
    shared = _bank(tensors, "shared", ("shared",), sites, saved.base) if saved.shared else None
    tree = Tree(leaves, gate.eval().requires_grad_(False), shared)
    return tree if host is None else _to(tree, host.device)


def _to(tree: Tree, device: torch.device) -> Tree:
    shared = tree.shared and tree.shared.to(device)
    return Tree(tree.leaves.to(device), tree.gate.to(device), shared)


def _tensors(tree: Tree, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {f"gate.{name}": tensor for name, tensor in tree.gate.state_dict().items()}
    for part, bank in (("leaves", tree.leaves), ("shared", tree.shared)):
        if bank is not None:
            for site in bank.sites:
                tensors[f"{part}.{site.path}.a"] = bank.a[site].detach().to(dtype)
                tensors[f"{part}.{site.path}.b"] = bank.b[site].detach().to(dtype)
    return tensors


def _bank(
    tensors: Mapping[str, Tensor], part: str, names: tuple[str, ...], sites: list[Site], base: str
) -> Bank:
    return Bank(
        names=names,
        a={site: tensors[f"{part}.{site.path}.a"].float() for site in sites},
        b={site: tensors[f"{part}.{site.path}.b"].float() for site in sites},
        base=base,
    )


def _shapes(saved: SavedTree, sites: list[Site], found: Found) -> Shapes:
    """Of every tensor that the config asks for; the rank at a site is that of its A."""
    groups = len(saved.layers) if saved.scope == "token" else 1
    nodes = len(nodes_of(saved.leaves))
    shapes: dict[str, tuple[int | None, ...]] = {
        "gate.weight_LNH": (groups, nodes, saved.dim),
        "gate.bias_LN": (groups, nodes),
    }
    for part, count in (("leaves", len(saved.leaves)), *([("shared", 1)] if saved.shared else [])):
        for site in sites:
            name = f"{part}.{site.path}"
            a_KRI = found.get(f"{name}.a", ())
            rank = a_KRI[1] if len(a_KRI) == 3 else 0
            shapes[f"{name}.a"] = (count, rank, site.in_features)
            shapes[f"{name}.b"] = (count, site.out_features, rank)
    return shapes
