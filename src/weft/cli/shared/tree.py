"""The flags of a tree of adapters, and what they load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weft.cli.shared.kinds import kind_of
from weft.errors import ConfigError
from weft.files import base_named_in, resolve

if TYPE_CHECKING:
    from weft.route import Tree


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TreeFlags:
    """A tree of adapters, and where its leaves lie."""

    tree: str | None = None
    """Folder of a tree; each token, or each prompt, takes one of its leaves."""
    leaf_devices: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Devices that share the leaves of --tree evenly: cpu, cuda:0, ...; that of the base unless given."""


def open_tree(flags: TreeFlags) -> tuple[Tree, str | None] | None:
    """The tree, on the CPU, and the name of its base where it has one; None where no tree is asked for.

    Raises ConfigError for a folder of another kind, or leaf devices that cannot be used; and what loading
    raises. No device but the CPU is filled before it is planted.
    """
    if flags.tree is None:
        if flags.leaf_devices:
            raise ConfigError("--leaf-devices are for the leaves of a tree; give --tree too")
        return None
    from weft.route import load_tree
    from weft.route.tree_devices import check_devices

    found = resolve(flags.tree)
    if found is not None and kind_of(found) != "tree":
        raise ConfigError(f"{flags.tree} is no tree but of kind {kind_of(found)}; weft train tree makes one")
    tree = load_tree(flags.tree)
    if flags.leaf_devices:
        check_devices(flags.leaf_devices, len(tree.leaves))
    return tree, None if found is None else base_named_in(found)
