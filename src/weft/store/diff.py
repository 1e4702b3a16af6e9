"""What differs between two versions, by the ids of git's trees alone: no tensor is read.

Equal bytes have equal ids, so every edit shows, down to the last bit of one number.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from weft.errors import UnknownNameError
from weft.store.git import Git
from weft.store.layout import CONFIG, layer_of, tensor_of
from weft.store.stored import Stored, adapters_at, open_tree, store_at, stored_at


class Difference(NamedTuple):
    """One file of one adapter that differs."""

    adapter: str
    layer: str
    """The module that a tensor adapts; empty for the other files."""
    what: str
    """Name of the tensor, or of the file."""
    change: Literal["added", "removed", "changed"]


Sides = Mapping[str, tuple[Stored | None, Stored | None]]


def sides_of(git: Git, before: str, after: str) -> Sides:
    """The adapters to compare, by name: those of two revisions that differ, or two adapters.

    Each side is the name of an adapter (at HEAD), `REVISION:NAME`, or a revision, which means all that it
    holds. Raises UnknownNameError.
    """
    old, new = _side(git, before), _side(git, after)
    if isinstance(old, Stored) != isinstance(new, Stored):
        one, all_of = (before, after) if isinstance(old, Stored) else (after, before)
        raise UnknownNameError(
            f"{one} is one adapter and {all_of} a whole revision; name {all_of}:NAME to compare it with"
        )
    if isinstance(old, Stored) and isinstance(new, Stored):
        name = old.name if old.name == new.name else f"{old.name} -> {new.name}"
        return {name: (old, new)} if old.tree != new.tree else {}
    assert isinstance(old, dict)
    assert isinstance(new, dict)
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return {name: (_open(git, name, old), _open(git, name, new)) for name in names}


def diff(sides: Sides) -> list[Difference]:
    """The files that differ, by adapter; tensors by name after the other files."""
    rows = []
    for adapter, (old, new) in sides.items():
        for mine, theirs, is_tensor in (
            (old.texts if old else {}, new.texts if new else {}, False),
            (old.tensors if old else {}, new.tensors if new else {}, True),
        ):
            for file in sorted({*mine, *theirs}):
                if mine.get(file) != theirs.get(file):
                    change = "added" if file not in mine else "changed" if file in theirs else "removed"
                    what = tensor_of(file) if is_tensor else file
                    rows.append(Difference(adapter, layer_of(what) if is_tensor else "", what, change))
    return rows


def changes_delta(rows: list[Difference], adapter: str) -> bool:
    """Whether what an adapter computes may differ: a tensor, or the scaling in its config."""
    return any(row.adapter == adapter and (row.layer or row.what == CONFIG) for row in rows)


def _side(git: Git, text: str) -> Stored | dict[str, str]:
    revision, colon, name = text.rpartition(":")
    if colon and git.resolve(revision):
        return stored_at(git, git.commit_of(revision), name)
    head = git.resolve("HEAD")
    if head is not None:
        here = adapters_at(git, git.tree_of(head))
        if text in here:
            return open_tree(git, text, here[text])
    commit = git.resolve(text)
    if commit is None:
        raise UnknownNameError(f"{text!r:.80} is neither an adapter at HEAD nor a revision of {git.root}")
    store_at(git, commit)
    return adapters_at(git, git.tree_of(commit))


def _open(git: Git, name: str, trees: Mapping[str, str]) -> Stored | None:
    return open_tree(git, name, trees[name]) if name in trees else None
