"""The recipes of one version of an adapter, or of the base, run again; what differs is told.

    merge       by a method: the commits that were merged, merged again
    rebase      the version of the adapter that was rebased, brought to the other base again
    stack       nothing was computed: the parent's files are there, each the very one
    the base    its versions, folded again from the first one

Nothing is committed.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.errors import AdapterFormatError, WeftError
from weft.store.accept import Derive, foldings
from weft.store.git import Git
from weft.store.layout import ADAPTERS, CONFIG, TENSORS
from weft.store.objects import TREE, Objects, object_id
from weft.store.plan_merge import plan_merge
from weft.store.pointer import as_held
from weft.store.policy import Policy
from weft.store.rebase import Combine, combined
from weft.store.stored import Stored, accepted_at, open_tree, store_at

if TYPE_CHECKING:
    from weft.store.delta import MergeAdapters

_OID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class Gone(WeftError):
    """A recipe that cannot be run here, and why."""


class Made(NamedTuple):
    """A version of an adapter, and what it says about how it was made."""

    stored: Stored
    lineage: Mapping[str, Any]

    @property
    def recipe(self) -> Any:
        """What its lineage says it was made by: any JSON value."""
        return self.lineage.get("recipe")


def merge_again(git: Git, merge_adapters: "MergeAdapters | None", commit: str, adapter: Made) -> str | None:
    """Merge the commits of a merge by a method once more."""
    name, recipe = adapter.stored.name, adapter.recipe
    policy, commits = _parse_merge(recipe, name)
    lost = [parent for parent in commits if git.resolve(parent) is None]
    if lost:
        raise Gone(f" was merged from {lost[0][:12]}, which is not here")
    if merge_adapters is None:
        raise Gone(" was merged by a method, for which `merge_adapters` is needed")
    if not policy.is_method:
        return f"its recipe names {policy.on_conflict}, which is no method"
    objects = Objects(git.algorithm)
    plan = plan_merge(git, objects, commits, lambda _: policy, merge_adapters, name)
    made = plan.change.get((ADAPTERS, name))
    if made is None or made.mode != TREE:
        return "its recipe merges nothing"
    entries = git.parse(objects.content[made.oid][1], name)
    tensors = git.parse(objects.content[entries[TENSORS].oid][1], name)
    oids = {file: entry.oid for file, entry in tensors.items()}
    return _difference(adapter, oids, entries[CONFIG].oid)


def rebase_again(git: Git, combine: Combine | None, commit: str, adapter: Made) -> str | None:
    """Rebase the version that was rebased once more."""
    recipe, parent = adapter.recipe, _parent_of(adapter)
    before, onto, rank = (recipe.get(key) for key in ("from", "onto", "rank"))
    file = store_at(git, commit)
    whole = rank is None or (type(rank) is int and rank > 0)
    if parent is None or before not in file.bases or onto not in file.bases or not whole:
        raise AdapterFormatError("its recipe is no recipe of a rebase")
    if not _is_here(git, parent.tree):
        raise Gone(f" was rebased from tree {parent.tree[:12]}, which is not here")
    if combine is None:
        raise Gone(" was rebased, for which `combine` is needed")
    parts, _ = combined(git, commit, open_tree(git, parent.name, parent.tree), before, onto, combine, rank)
    held = {name: as_held(data, file.blobs_over) for name, data in parts.tensors.items()}
    oids = {name: object_id("blob", data, git.algorithm) for name, data in held.items()}
    return _difference(adapter, oids, object_id("blob", parts.texts[CONFIG], git.algorithm))


def stack_again(git: Git, adapter: Made) -> str | None:
    """Look for the parent's files."""
    parent = _parent_of(adapter)
    if parent is None:
        raise Gone(" is in pieces, and its lineage names no one parent that they were stacked onto")
    if not _is_here(git, parent.tree):
        raise Gone(f" was stacked onto tree {parent.tree[:12]}, which is not here")
    below = open_tree(git, parent.name, parent.tree).tensors
    differ = [file for file, oid in below.items() if adapter.stored.tensors.get(file) != oid]
    if differ:
        return f"{len(differ)} tensors are not those of the parent it was stacked onto, {min(differ)} is one"
    return None


def fold_again(git: Git, derive: Derive | None, commit: str, count: int) -> str | None:
    """Fold the first so many steps; each version is compared by its fingerprint."""
    if derive is None:
        raise Gone(" was folded from weights that are not in the store; name the first base to fold it again")
    steps = accepted_at(git, git.tree_of(commit), store_at(git, commit))[:count]
    with tempfile.TemporaryDirectory() as place:
        found = derive(foldings(git, steps, Path(place) / "steps"), Path(place) / "base")
    wanted = steps[-1][0].base
    return None if found == wanted else f"folding gave {found}"


class _Parent(NamedTuple):
    name: str
    tree: str


def _parent_of(adapter: Made) -> _Parent | None:
    """The one adapter that a lineage names, by name and tree."""
    match adapter.lineage.get("parents"):
        case [{"name": str(name), "tree": str(tree)}] if _OID.fullmatch(tree):
            return _Parent(name, tree)
        case _:
            return None


def _is_here(git: Git, tree: str) -> bool:
    return git.is_partial() or bool(git.existing([tree]))


def _difference(adapter: Made, again: Mapping[str, str], config: str) -> str | None:
    """What an adapter has other than its recipe gives, by the ids of its files."""
    here = adapter.stored.tensors
    differ = [file for file in {*here, *again} if here.get(file) != again.get(file)]
    made = f"(made by weft {adapter.recipe.get('weft')} with torch {adapter.recipe.get('torch')})"
    if differ:
        return f"{len(differ)} tensors differ from what its recipe gives, {min(differ)} is one {made}"
    return None if adapter.stored.texts[CONFIG] == config else f"{CONFIG} differs from it {made}"


def _parse_merge(recipe: Mapping[str, Any], name: str) -> tuple[Policy, list[str]]:
    method, weights, options, commits = (
        recipe.get(key) for key in ("merge", "weights", "options", "commits")
    )
    whole = (
        isinstance(method, str)
        and isinstance(options, dict)
        and isinstance(commits, list)
        and not options.keys() & {"method", "adapters", "weights"}
        and all(isinstance(commit, str) and _OID.fullmatch(commit) for commit in commits)
        and recipe.get("adapter") == name
    )
    numbers = weights is None or (
        isinstance(weights, list) and all(type(weight) in (int, float) for weight in weights)
    )
    if not whole or not numbers:
        raise AdapterFormatError("its recipe is no recipe of a merge")
    assert isinstance(method, str)
    assert isinstance(options, dict)
    assert isinstance(commits, list)
    return Policy(method, None if weights is None else tuple(map(float, weights)), options), commits
