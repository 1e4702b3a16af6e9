"""A PEFT folder into the store: one blob per tensor, only those that are new."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import BaseMismatchError, ConfigError
from weft.files import is_name
from weft.store.edit import Change, edit
from weft.store.folder import take_apart
from weft.store.git import Git
from weft.store.layout import (
    ADAPTERS,
    ATTRIBUTES,
    ATTRIBUTES_TEXT,
    MAX_TEXT,
    STORE,
    check_name,
    check_portable,
)
from weft.store.manifest import check_lineage
from weft.store.objects import FILE, FILES, Entry, Objects
from weft.store.pointer import BLOBS_OVER, SETTING, move_out
from weft.store.store_file import Modules, StoreFile, store_bytes
from weft.store.stored import adapters_at, manifest_of, no_adapter, open_tree, store_at, write_adapter


class Added(NamedTuple):
    """What an `add` did."""

    name: str
    commit: str | None
    """None when it was staged, or when nothing changed."""
    tensors: int
    written: int
    """Tensors that the store did not hold before."""
    left_out: tuple[str, ...]
    """Files of the folder that no adapter has; they were not taken in."""


def init(
    folder: str | os.PathLike[str],
    base: str | None,
    modules: Modules | None = None,
    blobs: str | os.PathLike[str] | None = None,
    blobs_over: int = BLOBS_OVER,
) -> None:
    """Make a store in a folder, in a new git repository or in the one that is there. Raises ConfigError.

    With `blobs`, tensors of more than `blobs_over` bytes will lie in that folder.
    """
    if blobs_over < 0:
        raise ConfigError(f"the size from which tensors lie apart cannot be {blobs_over} bytes")
    if base is not None and not is_name(base):
        raise ConfigError(f"a base is named by its fingerprint, which {base!r:.80} is not")
    file = StoreFile(base, modules=modules, blobs_over=None if blobs is None else blobs_over)
    Git.create(Path(folder))
    with Git(folder) as git:
        head = git.resolve("HEAD")
        if head and STORE in git.tree(git.tree_of(head), head):
            raise ConfigError(f"{git.root} is a store already")

        def plan(objects: Objects, tree: str | None) -> Change:
            entries = git.tree(tree, tree) if tree else {}
            change: dict[tuple[str, ...], Entry | None] = {
                (STORE,): Entry(FILE, objects.add("blob", store_bytes(file)))
            }
            lines = _attributes_at(git, entries.get(ATTRIBUTES))
            if ATTRIBUTES_TEXT.encode() not in lines:
                data = lines + b"\n" * (bool(lines) and not lines.endswith(b"\n")) + ATTRIBUTES_TEXT.encode()
                change[(ATTRIBUTES,)] = Entry(FILE, objects.add("blob", data))
            return change

        edit(git, plan, "Start a store of adapters")
        if blobs is not None:
            git.run("config", SETTING, str(Path(blobs).absolute()))


def _attributes_at(git: Git, entry: Entry | None) -> bytes:
    """What a repository says about its files. Raises ConfigError where a working folder says more."""
    if entry is not None and entry.mode not in FILES:
        raise ConfigError(f"{ATTRIBUTES} of {git.root} is no file; a store needs one of its own")
    lines = git.read(entry.oid, "blob", MAX_TEXT) if entry else b""
    here = git.root / ATTRIBUTES
    if not git.bare and os.path.lexists(here) and (here.is_symlink() or here.read_bytes() != lines):
        raise ConfigError(f"{here} is not as HEAD has it; commit it first, for a store adds lines to it")
    return lines


def take_in(
    git: Git,
    path: str | os.PathLike[str],
    name: str,
    message: str | None = None,
    lineage: Mapping[str, Any] | None = None,
    parent: str | None = None,
) -> Added:
    """Take an adapter in under a name; commit it with a message, stage it without one.

    With a parent, which `name` may be itself, the adapter begins with the parent's ranks: only what is new is
    stored (stack.py), and the lineage's `parents` become the parent and its tree. Else the lineage stays what
    it was unless one is given.

    Raises what `take_apart` raises, ConfigError for a bad name or lineage, BaseMismatchError or ShapeError
    for an adapter of another base than the store's, UnknownNameError for the parent, and ShapeError where the
    adapter is not the parent with new columns, to the bit.
    """
    for each in (name,) if parent is None else (parent, name):
        check_name(each)
    check_lineage(lineage or {})
    if parent is not None and "parents" in (lineage or {}):
        raise ConfigError("the lineage of a stack cannot state parents: its parent is the adapter below it")
    store, source = store_at(git, git.commit_of("HEAD")), os.fspath(path)
    parts = take_apart(path)
    named = store.check(parts.header, source)
    written = 0

    def plan(objects: Objects, tree: str | None) -> Change:
        nonlocal written
        known = adapters_at(git, tree) if tree else {}
        if parent is not None and parent not in known:
            raise no_adapter(parent, known)
        check_portable([*known, name], ADAPTERS)
        old = open_tree(git, name, known[name]) if name in known else None
        former = manifest_of(git, old).lineage if old is not None and lineage is None else lineage or {}
        base, kept, files = named, {}, parts.tensors
        if parent is not None:
            from weft.store.stack import new_columns

            below = open_tree(git, parent, known[parent])
            git.fetch(git.missing(below.tree))
            base = manifest_of(git, below).base
            if named and base and named != base:
                raise BaseMismatchError(f"{source} belongs to base {named}, {parent} to {base}")
            former = {**former, "parents": [{"name": parent, "tree": below.tree}]}
            base, kept, files = named or base, below.tensors, new_columns(git, below, parts, source)
        fresh = Objects(git.algorithm)
        tensors = {**kept, **fresh.add_files(move_out(git, files, store.blobs_over))}
        held = set(old.tensors.values()) if old else set()
        held |= git.existing([oid for oid in fresh.content if oid not in held])
        new = {oid: blob for oid, blob in fresh.content.items() if oid not in held}
        written = len(new)
        objects.content |= new
        return {(ADAPTERS, name): write_adapter(objects, parts, base or store.base, former, tensors)}

    commit = edit(git, plan, message)
    return Added(name, commit, len(parts.tensors), written, parts.left_out)


def remove(git: Git, name: str, message: str | None = None) -> str | None:
    """Take an adapter out; its history stays. Id of the commit, None when it was staged.

    Raises UnknownNameError.
    """
    check_name(name)
    store_at(git, git.commit_of("HEAD"))

    def plan(objects: Objects, tree: str | None) -> Change:
        known = git.tree(tree, tree).get(ADAPTERS) if tree else None
        names = git.tree(known.oid, ADAPTERS) if known else {}
        if name not in names:
            raise no_adapter(name, names)
        return {(ADAPTERS, name): None}

    return edit(git, plan, message)
