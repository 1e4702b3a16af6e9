"""Every merge by a method, done again from its recipe and compared to the bit.

A recipe is looked at in the commit that brought it: later versions of the adapter keep it in their lineage.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.errors import AdapterFormatError, WeftError
from weft.store.git import Git
from weft.store.history import versions
from weft.store.layout import ADAPTERS, CONFIG, TENSORS
from weft.store.objects import TREE, Objects
from weft.store.plan_merge import plan_merge
from weft.store.policy import Policy
from weft.store.stored import Stored, adapters_at, manifest_of, open_tree

if TYPE_CHECKING:
    from weft.store.delta import MergeAdapters

_OID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class Replayed(NamedTuple):
    """What came of doing merges again."""

    merges: int
    """Recipes that were run again."""
    gone: tuple[str, ...]
    """One line for each recipe whose parents this repository does not hold: squashed, or a shallow clone."""
    problems: tuple[str, ...]
    """One line for each that gave other bytes, or none."""


def replay(git: Git, merge_adapters: "MergeAdapters") -> Replayed:
    """Run the recipes of all that branches, tags and HEAD reach; `merge_adapters` is `weft.merge.merge`."""
    merges, gone, problems = 0, [], []
    read: dict[tuple[str, str], Any] = {}

    def recipes(commit: str) -> dict[str, Any]:
        found = {}
        for name, tree in adapters_at(git, git.tree_of(commit)).items():
            if (name, tree) not in read:
                read[name, tree] = manifest_of(git, open_tree(git, name, tree)).lineage.get("recipe")
            found[name] = read[name, tree]
        return found

    for version in versions(git, "--all"):
        where = version.commit[:12]
        try:
            here = recipes(version.commit)
            parents = git.run("rev-parse", f"{version.commit}^@").decode().split()
            before = [recipes(parent) for parent in parents]
        except WeftError as error:
            problems.append(f"{where}: {error}")
            continue
        for name, recipe in here.items():
            if not isinstance(recipe, dict) or "merge" not in recipe:
                continue
            if any(old.get(name) == recipe for old in before):
                continue
            try:
                policy, commits = _parse(recipe, name)
                lost = [commit for commit in commits if git.resolve(commit) is None]
                if lost:
                    gone.append(f"{where}: {name} was merged from {lost[0][:12]}, which is not here")
                    continue
                merges += 1
                wrong = _compare(git, version.commit, name, policy, commits, merge_adapters)
            except WeftError as error:
                wrong = str(error)
            if wrong:
                made = f"made by weft {recipe.get('weft')} with torch {recipe.get('torch')}"
                problems.append(f"{where}: {name}: {wrong} ({made})")
    return Replayed(merges, tuple(gone), tuple(problems))


def _parse(recipe: Mapping[str, Any], name: str) -> tuple[Policy, list[str]]:
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


def _compare(
    git: Git,
    commit: str,
    name: str,
    policy: Policy,
    commits: list[str],
    merge_adapters: "MergeAdapters",
) -> str | None:
    """What differs between an adapter and what its recipe gives; nothing is written."""
    if not policy.is_method:
        return f"its recipe names {policy.on_conflict}, which is no method"
    objects = Objects(git.algorithm)
    made = plan_merge(git, objects, commits, lambda _: policy, merge_adapters, name).change.get(
        (ADAPTERS, name)
    )
    if made is None or made.mode != TREE:
        return "its recipe merges nothing"
    entries = git.parse(objects.content[made.oid][1], name)
    tensors = git.parse(objects.content[entries[TENSORS].oid][1], name)
    here: Stored = open_tree(git, name, adapters_at(git, git.tree_of(commit))[name])
    again = {file: entry.oid for file, entry in tensors.items()}
    differ = [file for file in {*here.tensors, *again} if here.tensors.get(file) != again.get(file)]
    if differ:
        return f"{len(differ)} tensors differ from what its recipe gives, {min(differ)} is one"
    same = here.texts[CONFIG] == entries[CONFIG].oid
    return None if same else f"{CONFIG} differs from what its recipe gives"
