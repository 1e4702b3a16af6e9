"""What each side of a merge changed, by the ids of git's trees alone: no file is read.

    superseded(i)   some other side j changed what i still has from their common ancestor:
                    v_i in ancestors(i, j)  and  v_j not in ancestors(i, j)

What is left when these are gone is the merge. For two sides this is the usual three-way rule; for more, each
pair has its own ancestor, so branches may have left the trunk at different places.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, TypeVar

from weft.store.git import Git
from weft.store.layout import ADAPTERS, TENSORS, tensor_of
from weft.store.objects import TREE, Entry

_ABOVE = ((), (ADAPTERS,))
V = TypeVar("V", bound=Hashable)
TreePath = tuple[str, ...]
Bases = Mapping[tuple[int, int], tuple[V, ...]]
"""What the common ancestors of two sides (i < j) have."""


class Conflict(NamedTuple):
    """A path that several sides changed, each in its own way."""

    path: TreePath
    sides: tuple[int, ...]
    """Those whose version is still in question, in the order of the parents."""

    @property
    def adapter(self) -> str:
        """The adapter that it is in; empty for what lies elsewhere."""
        return self.path[1] if len(self.path) > 1 and self.path[0] == ADAPTERS else ""

    def __str__(self) -> str:
        """As people name it: the adapter and its tensor, or the path."""
        if self.adapter and len(self.path) == 4 and self.path[2] == TENSORS:
            return f"{self.adapter}: {tensor_of(self.path[3])}"
        if self.adapter and len(self.path) > 2:
            return f"{self.adapter}: {' '.join(self.path[2:])}"
        return "/".join(self.path)


class Histories(NamedTuple):
    """The commits that are merged, and the common ancestors of each pair of them."""

    commits: tuple[str, ...]
    bases: Bases[str]


class Changes(NamedTuple):
    """What a merge does to the first side, and what it cannot decide."""

    clean: Mapping[TreePath, Entry | None]
    conflicts: tuple[Conflict, ...]


def histories(git: Git, commits: Sequence[str]) -> Histories:
    """Ask git for the common ancestors."""
    bases = {
        (i, j): tuple(git.run("merge-base", "--all", commits[i], commits[j], ok=(0, 1)).decode().split())
        for i, j in combinations(range(len(commits)), 2)
    }
    return Histories(tuple(commits), bases)


def alive(values: Sequence[V], bases: Bases[V]) -> tuple[int, ...]:
    """The sides that are not superseded. Values are equal where sides agree; None is an absent one."""
    gone = set()
    for (i, j), ancestors in bases.items():
        for mine, other in ((i, j), (j, i)):
            if values[mine] in ancestors and values[other] not in ancestors:
                gone.add(mine)
    # Histories that cross can go round in a circle; then all sides stay in question.
    return tuple(k for k in range(len(values)) if k not in gone) or tuple(range(len(values)))


def three_way(git: Git, sides: Histories, below: TreePath = ()) -> Changes:
    """Compare whole commits, or what they have at one path."""
    walk = _Walk(git)
    entries = {oid: walk.at(oid, below) for oid in {*sides.commits, *sum(sides.bases.values(), ())}}
    values = [entries[oid] for oid in sides.commits]
    # Histories without a common ancestor begin with nothing.
    bases = {pair: tuple(entries[oid] for oid in oids) or (None,) for pair, oids in sides.bases.items()}
    walk.compare(below, values, bases)
    return Changes(walk.clean, tuple(walk.conflicts))


class _Walk:
    """What has been decided so far."""

    def __init__(self, git: Git) -> None:
        self.git = git
        self.trees: dict[str, Mapping[str, Entry]] = {}
        self.clean: dict[TreePath, Entry | None] = {}
        self.conflicts: list[Conflict] = []

    def at(self, commit: str, path: TreePath) -> Entry | None:
        """What a commit has at a path."""
        entry: Entry | None = Entry(TREE, self.git.tree_of(commit))
        for name in path:
            entry = self.open(entry).get(name)
        return entry

    def open(self, entry: Entry | None) -> Mapping[str, Entry]:
        """The entries of a tree; none for anything else."""
        if entry is None or entry.mode != TREE:
            return {}
        if entry.oid not in self.trees:
            self.trees[entry.oid] = self.git.tree(entry.oid, entry.oid)
        return self.trees[entry.oid]

    def compare(self, path: TreePath, sides: Sequence[Entry | None], bases: Bases[Entry | None]) -> None:
        """Decide about a path, folder by folder; equal folders are not opened."""
        left = alive(sides, bases)
        values = {sides[k] for k in left}
        if values == {sides[0]}:
            return
        # Down to adapters, changes are told one by one; a folder that is absent is an empty one.
        if path in _ABOVE or (len(values) > 1 and all(v is not None and v.mode == TREE for v in values)):
            opened = [self.open(side) for side in sides]
            before = {pair: tuple(self.open(entry) for entry in entries) for pair, entries in bases.items()}
            for name in sorted({name for folder in opened for name in folder}):
                self.compare(
                    (*path, name),
                    [folder.get(name) for folder in opened],
                    {pair: tuple(f.get(name) for f in folders) for pair, folders in before.items()},
                )
        elif len(values) == 1:
            self.clean[path] = values.pop()
        else:
            self.conflicts.append(Conflict(path, left))
