"""A tree as a folder: `config.json` says its shape, `model.safetensors` holds nodes and leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from weft.adapters import tensor_bytes
from weft.config import Config, parse_config
from weft.embed.tensors import read_tensors
from weft.errors import BaseMismatchError, ConfigError, MissingFileError, SaveError, ShapeError, WeightsError
from weft.files import nearest, read_json, replace_folder, resolve, to_json
from weft.host import Host
from weft.route.paths import check_leaves, nodes_of
from weft.route.tree import Scope, Tree, TreeGate, leaf_name
from weft.types import Bank, Site

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class SavedTree(Config):
    """What `config.json` holds."""

    format: Literal[1]
    kind: Literal["tree"]
    base: str
    dim: int
    scope: Scope
    layers: tuple[int, ...]
    temperature: float
    leaves: tuple[str, ...]
    """The path of every leaf, in the order of the adapters."""
    shared: bool
    sites: tuple[tuple[str, int, str, int, int], ...]
    """Path, layer, module, in and out features of every site."""
    provenance: dict[str, Any]


def save_tree(
    tree: Tree,
    folder: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any] = MappingProxyType({}),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a tree; one that is there is replaced. `dtype` is that of the leaves in the file.

    Raises ShapeError for NaN or infinity, SaveError when the disk refuses or the folder holds other files;
    what was there stays whole.
    """
    target = Path(folder)
    _check_target(target)
    tensors = _tensors(tree, dtype)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ShapeError(f"{name} of the tree holds NaN or infinity, it is not saved")
    saved = {
        "format": 1,
        "kind": "tree",
        "base": tree.leaves.base,
        "dim": tree.gate.dim,
        "scope": tree.gate.scope,
        "layers": tree.gate.layers,
        "temperature": tree.gate.temperature,
        "leaves": tree.gate.leaves,
        "shared": tree.shared is not None,
        "sites": [(s.path, s.layer, s.module, s.in_features, s.out_features) for s in tree.leaves.sites],
        "provenance": dict(provenance),
    }
    weights = tensor_bytes(tensors, {})
    with replace_folder(target) as fresh:
        (fresh / CONFIG).write_text(to_json(saved), encoding="utf-8")
        (fresh / WEIGHTS).write_bytes(weights)


def load_tree(folder: str | os.PathLike[str], *, host: Host | None = None) -> Tree:
    """Read a tree, frozen, with hard descent; `host`, where given, is the base that it is for.

    Raises MissingFileError, ConfigError, BaseMismatchError, and WeightsError for damage, NaN, or tensors
    other than the config asks for.
    """
    found = resolve(folder)
    if found is None:
        raise MissingFileError(f"no tree folder at {os.fspath(folder)}")
    values = read_json(found / CONFIG)
    if not _is_tree(values):
        raise ConfigError(f"{found / CONFIG} describes no tree")
    saved = parse_config(SavedTree, values, str(found / CONFIG))
    check_leaves(saved.leaves)
    if host is not None and saved.base and host.fingerprint != saved.base:
        raise BaseMismatchError(
            f"the tree at {found} is for base {saved.base}, this host is {host.fingerprint}; "
            "load the base that it was trained for"
        )
    tensors = read_tensors(found / WEIGHTS)
    sites = [Site(*values) for values in saved.sites]
    _check_tensors(found / WEIGHTS, tensors, saved, sites)
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


def _check_tensors(file: Path, tensors: Mapping[str, Tensor], saved: SavedTree, sites: list[Site]) -> None:
    """Every tensor that the config asks for, in its shape, and no other."""
    groups = len(saved.layers) if saved.scope == "token" else 1
    nodes = len(nodes_of(saved.leaves))
    expected: dict[str, tuple[int, ...]] = {
        "gate.weight_LNH": (groups, nodes, saved.dim),
        "gate.bias_LN": (groups, nodes),
    }
    for part, count in (("leaves", len(saved.leaves)), *([("shared", 1)] if saved.shared else [])):
        for site in sites:
            name = f"{part}.{site.path}"
            a_KRI = tensors.get(f"{name}.a")
            rank = a_KRI.shape[1] if a_KRI is not None and a_KRI.dim() == 3 else 0
            expected[f"{name}.a"] = (count, rank, site.in_features)
            expected[f"{name}.b"] = (count, site.out_features, rank)
    for name in sorted(expected.keys() - tensors.keys()):
        raise WeightsError(f"{file} lacks {name}, which its config asks for")
    for name, tensor in sorted(tensors.items()):
        if name not in expected:
            raise WeightsError(
                f"{file} holds {name}, which its config does not know{nearest(name, expected)}"
            )
        if tuple(tensor.shape) != expected[name]:
            raise WeightsError(
                f"{file}: {name} is {list(tensor.shape)}, its config asks for {list(expected[name])}"
            )


def _check_target(folder: Path) -> None:
    # Replacing a folder deletes what is in it: never anything that is not a tree.
    if folder.exists() and not folder.is_dir():
        raise SaveError(f"{folder} is a file; a tree needs a folder of its own")
    found = folder.iterdir() if folder.exists() else ()
    names = {file.name for file in found}
    if names and not (names == {CONFIG, WEIGHTS} and _is_tree(read_json(folder / CONFIG))):
        raise SaveError(f"{folder} holds other files ({min(names)}); a tree needs a folder of its own")


def _is_tree(values: Any) -> bool:
    return isinstance(values, dict) and values.get("kind") == "tree"
