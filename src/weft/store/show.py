"""Which adapters a store holds, and what one of them is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from weft.store.git import Git
from weft.store.layout import ADAPTERS, CONFIG, MAX_TEXT
from weft.store.pieces import count_tensors
from weft.store.stored import adapters_at, manifest_of, open_tree, store_at, stored_at
from weft.tensor_file import strict_json


class Listed(NamedTuple):
    """An adapter, as its trees tell it."""

    name: str
    tensors: int
    tree: str
    """Id of its folder: equal ids are equal adapters."""


class Shown(NamedTuple):
    """An adapter, as its texts tell it."""

    name: str
    commit: str
    base: str | None
    tensors: int
    bytes: int
    """Of its tensor files, as they lie in a working folder."""
    config: Mapping[str, Any]
    metadata: Mapping[str, str] | None
    lineage: Mapping[str, Any]


def list_adapters(git: Git, rev: str = "HEAD") -> list[Listed]:
    """All adapters of a revision, by name; no file is read. Raises UnknownNameError, AdapterFormatError."""
    commit = git.commit_of(rev)
    store_at(git, commit)
    trees = adapters_at(git, git.tree_of(commit))
    return [
        Listed(name, count_tensors(open_tree(git, name, trees[name]).tensors), trees[name])
        for name in sorted(trees)
    ]


def show(git: Git, name: str, rev: str = "HEAD") -> Shown:
    """One adapter of a revision. Raises UnknownNameError, AdapterFormatError."""
    commit = git.commit_of(rev)
    stored = stored_at(git, commit, name)
    git.fetch(git.missing(stored.tree))
    manifest = manifest_of(git, stored)
    config = strict_json(git.read(stored.texts[CONFIG], "blob", MAX_TEXT), f"{ADAPTERS}/{name}/{CONFIG}")
    size = sum(git.sizes(list(stored.tensors.values())))
    tensors = count_tensors(stored.tensors)
    return Shown(name, commit, manifest.base, tensors, size, config, manifest.metadata, manifest.lineage)
