"""An adapter as another one and new columns: the parent's own blobs, and the new rows of A and columns of B.

    A = [A_parent; A_new]     B = [B_parent, B_new]

The parent's tensors are named by their ids in the new adapter's folder, so they stay whatever becomes of the
parent, and git stores them once.
"""

import os
from collections.abc import Mapping
from typing import Any

from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError
from weft.files import nearest
from weft.store.add import Added
from weft.store.edit import Change, edit
from weft.store.folder import Parts, read_tensor, take_apart
from weft.store.git import Git
from weft.store.layout import ADAPTERS, TENSORS, check_name, check_portable, file_of
from weft.store.manifest import check_lineage
from weft.store.objects import Objects
from weft.store.pieces import Values, cut, join, piece_file, pieces_of
from weft.store.pointer import move_out, read_tensors
from weft.store.stored import Stored, adapters_at, manifest_of, open_tree, store_at, write_adapter
from weft.tensor_file import build, framed


def stack(
    git: Git,
    parent: str,
    path: str | os.PathLike[str],
    name: str,
    message: str | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Added:
    """Take in a PEFT folder whose first ranks are an adapter's; commit with a message, stage without one.

    `parent` and `name` may be the same: its next version. The lineage stays what it was unless one is given;
    its `parents` become the parent and its tree.

    Raises ShapeError where the folder is not the parent with new columns, to the bit, and what `add` raises.
    """
    check_name(parent)
    check_name(name)
    check_lineage(lineage or {})
    if "parents" in (lineage or {}):
        raise ConfigError("the lineage of a stack cannot state parents: its parent is the adapter below it")
    store = store_at(git, git.commit_of("HEAD"))
    source = os.fspath(path)
    parts = take_apart(path)
    named = store.check(parts.header, source)
    written = 0

    def plan(objects: Objects, tree: str | None) -> Change:
        nonlocal written
        known = adapters_at(git, tree) if tree else {}
        if parent not in known:
            raise UnknownNameError(
                f"no adapter {parent}{nearest(parent, known)}; `weft store list` names all"
            )
        check_portable([*known, name], ADAPTERS)
        below = open_tree(git, parent, known[parent])
        git.fetch(git.missing(below.tree))
        base = manifest_of(git, below).base
        if named and base and named != base:
            raise BaseMismatchError(f"{source} belongs to base {named}, {parent} to {base}")
        former = lineage
        if former is None and name in known:
            former = manifest_of(git, open_tree(git, name, known[name])).lineage
        told = {**(former or {}), "parents": [{"name": parent, "tree": below.tree}]}
        tensors, new = _stacked(git, below, parts, source)
        fresh = move_out(git, new, store.blobs_over)
        written = len(fresh)
        tensors = {**tensors, **objects.add_files(fresh)}
        return {(ADAPTERS, name): write_adapter(objects, parts, named or base or store.base, told, tensors)}

    commit = edit(git, plan, message)
    return Added(name, commit, len(parts.tensors), written, parts.left_out)


def _stacked(
    git: Git, below: Stored, parts: Parts, source: str
) -> tuple[Mapping[str, str], dict[str, bytes]]:
    """The parent's files by id, and the new files."""
    where = f"{ADAPTERS}/{below.name}/{TENSORS}"
    pieces = pieces_of(below.tensors, where)
    lacks = next((file for file in pieces if file not in parts.tensors), None)
    if lacks is not None:
        raise ShapeError(f"{source} lacks {lacks.removesuffix('.safetensors')}, which {below.name} has")
    held: dict[str, tuple[str, Values]] = {}
    for file, blob in read_tensors(git, below.tensors, where):
        name, dtype, shape, raw = read_tensor(file, blob, where)
        held[file] = name, Values(dtype, shape, raw)
    fresh = {}
    for file, blob in parts.tensors.items():
        if file not in pieces:
            fresh[file] = blob
            continue
        name, dtype, shape, raw = read_tensor(file, blob, source)
        old = join(name, [held[piece][1] for piece in pieces[file]], where)
        new = cut(name, old, Values(dtype, shape, raw), source)
        if new is not None:
            fresh[piece_file(file_of(name), len(pieces[file]))] = (
                framed(build([(name, new.dtype, new.shape)]).text) + new.raw
            )
    if not fresh:
        raise ShapeError(f"{source} is {below.name} itself and has no new columns")
    return below.tensors, fresh
