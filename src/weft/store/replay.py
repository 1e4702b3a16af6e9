"""Every recipe that the store can run, run again and compared to the bit; the others are named.

    merge       by a method: the commits that were merged, merged again
    rebase      the version of the adapter that was rebased, brought to the other base again
    stack       nothing was computed: the parent's files are there, each the very one
    the base    its versions, folded again from the first one

A recipe is looked at in the commit that brought it: later versions of the adapter keep it in their lineage.
Nothing is committed.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import AdapterFormatError, WeftError
from weft.store.accept import Base, derive, foldings
from weft.store.git import Git
from weft.store.history import versions
from weft.store.layout import ADAPTERS, CONFIG, STORE, TENSORS
from weft.store.objects import TREE, Objects, is_oid, object_id
from weft.store.pieces import split_file
from weft.store.plan_merge import plan_merge
from weft.store.pointer import as_held
from weft.store.rebase import combined
from weft.store.store_file import NOT_OPTIONS, Policy, Step
from weft.store.stored import Stored, accepted_at, adapters_at, manifest_of, open_tree, store_at

_Run = Callable[[], str | None]
"""Does a recipe again; what differs. Raises _Gone, or another WeftError."""


class Replayed(NamedTuple):
    """What came of running recipes again."""

    recipes: int
    """How many were run."""
    gone: tuple[str, ...]
    """One line for each that cannot be: what it needs is not here, or it is none of the store's."""
    problems: tuple[str, ...]
    """One line for each that gave other bytes, or none."""


class _Gone(WeftError):
    """A recipe that cannot be run here, and why."""


class _Made(NamedTuple):
    """A version of an adapter, and what it says about how it was made."""

    stored: Stored
    lineage: Mapping[str, Any]

    @property
    def recipe(self) -> Any:
        return self.lineage.get("recipe")


def replay(git: Git, base: Base | None = None) -> Replayed:
    """Run the recipes of all that branches, tags and HEAD reach; with a base, those of its versions too."""
    recipes, gone, problems = 0, [], []
    for where, run in _runs(git, base, problems):
        try:
            wrong = run()
        except _Gone as reason:
            gone.append(f"{where}{reason}")
            continue
        except WeftError as error:
            problems.append(f"{where}: {error}")
            continue
        recipes += 1
        if wrong:
            problems.append(f"{where}: {wrong}")
    return Replayed(recipes, tuple(gone), tuple(problems))


def _runs(git: Git, base: Base | None, problems: list[str]) -> Iterator[tuple[str, _Run]]:
    """All that was made by a recipe, and where; commits that cannot be read are problems."""
    read: dict[tuple[str, str], _Made] = {}
    bases: dict[tuple[Step, ...], str] = {}

    def adapters(commit: str) -> dict[str, _Made]:
        found = adapters_at(git, git.tree_of(commit))
        for name, tree in found.items():
            if (name, tree) not in read:
                stored = open_tree(git, name, tree)
                read[name, tree] = _Made(stored, manifest_of(git, stored).lineage)
        return {name: read[name, tree] for name, tree in found.items()}

    for version in versions(git, "--all"):
        commit, where = version.commit, version.commit[:12]
        try:
            here = adapters(commit)
            parents = git.run("rev-parse", f"{commit}^@").decode().split()
            before = [adapters(parent) for parent in parents]
            if STORE in git.tree(git.tree_of(commit), where):
                bases.setdefault(store_at(git, commit).accepted, commit)
        except WeftError as error:
            problems.append(f"{where}: {error}")
            continue
        for name, adapter in here.items():
            run = _run_of(git, commit, adapter, [known[name] for known in before if name in known])
            if run is not None:
                yield f"{where}: {name}", run
    for steps, commit in bases.items():
        if not any(steps == more[: len(steps)] for more in bases if more != steps):
            for count, step in enumerate(steps, 1):
                yield f"{commit[:12]}: base {step.base}", partial(_fold_again, git, base, commit, count)


def _run_of(git: Git, commit: str, adapter: _Made, former: Sequence[_Made]) -> _Run | None:
    """What does an adapter's recipe again, None where this commit brought none."""
    recipe, parents = adapter.recipe, adapter.lineage.get("parents")
    brought = recipe is not None and all(old.recipe != recipe for old in former)
    if brought and isinstance(recipe, dict) and "merge" in recipe:
        return partial(_merge_again, git, adapter)
    if brought and isinstance(recipe, dict) and "rebase" in recipe:
        return partial(_rebase_again, git, commit, adapter)
    is_new = parents is not None and all(old.lineage.get("parents") != parents for old in former)
    if is_new and any(split_file(file)[1] for file in adapter.stored.tensors):
        return partial(_stack_again, git, adapter)
    return _not_ours if brought else None


def _not_ours() -> str | None:
    raise _Gone(" was made by a recipe of its own, which is not run here")


def _merge_again(git: Git, adapter: _Made) -> str | None:
    """Merge the commits of a merge by a method once more."""
    name, recipe = adapter.stored.name, adapter.recipe
    policy, commits = _parse_merge(recipe, name)
    lost = [parent for parent in commits if git.resolve(parent) is None]
    if lost:
        raise _Gone(f" was merged from {lost[0][:12]}, which is not here")
    if not policy.is_method:
        return f"its recipe names {policy.on_conflict}, which is no method"
    objects = Objects(git.algorithm)
    plan = plan_merge(git, objects, commits, lambda _: policy, name)
    made = plan.change.get((ADAPTERS, name))
    if made is None or made.mode != TREE:
        return "its recipe merges nothing"
    entries = git.parse(objects.content[made.oid][1], name)
    tensors = git.parse(objects.content[entries[TENSORS].oid][1], name)
    oids = {file: entry.oid for file, entry in tensors.items()}
    return _difference(adapter, oids, entries[CONFIG].oid)


def _rebase_again(git: Git, commit: str, adapter: _Made) -> str | None:
    """Rebase the version that was rebased once more."""
    recipe, parent = adapter.recipe, _parent_of(adapter)
    before, onto, rank = (recipe.get(key) for key in ("from", "onto", "rank"))
    file = store_at(git, commit)
    whole = rank is None or (type(rank) is int and rank > 0)
    if parent is None or before not in file.bases or onto not in file.bases or not whole:
        raise AdapterFormatError("its recipe is no recipe of a rebase")
    if not _is_here(git, parent.tree):
        raise _Gone(f" was rebased from tree {parent.tree[:12]}, which is not here")
    parts, _ = combined(git, commit, open_tree(git, parent.name, parent.tree), before, onto, rank)
    held = {name: as_held(data, file.blobs_over) for name, data in parts.tensors.items()}
    oids = {name: object_id("blob", data, git.algorithm) for name, data in held.items()}
    return _difference(adapter, oids, object_id("blob", parts.texts[CONFIG], git.algorithm))


def _stack_again(git: Git, adapter: _Made) -> str | None:
    """Look for the parent's files."""
    parent = _parent_of(adapter)
    if parent is None:
        raise _Gone(" is in pieces, and its lineage names no one parent that they were stacked onto")
    if not _is_here(git, parent.tree):
        raise _Gone(f" was stacked onto tree {parent.tree[:12]}, which is not here")
    below = open_tree(git, parent.name, parent.tree).tensors
    differ = [file for file, oid in below.items() if adapter.stored.tensors.get(file) != oid]
    if differ:
        return f"{len(differ)} tensors are not those of the parent it was stacked onto, {min(differ)} is one"
    return None


def _fold_again(git: Git, base: Base | None, commit: str, count: int) -> str | None:
    """Fold the first so many steps; each version is compared by its fingerprint."""
    if base is None:
        raise _Gone(
            " was folded from weights that are not in the store; name the first base to fold it again"
        )
    steps = accepted_at(git, git.tree_of(commit), store_at(git, commit))[:count]
    with tempfile.TemporaryDirectory() as place:
        found = derive(base, foldings(git, steps, Path(place) / "steps"), Path(place) / "base")
    wanted = steps[-1][0].base
    return None if found == wanted else f"folding gave {found}"


class _Parent(NamedTuple):
    name: str
    tree: str


def _parent_of(adapter: _Made) -> _Parent | None:
    """The one adapter that a lineage names, by name and tree."""
    match adapter.lineage.get("parents"):
        case [{"name": str(name), "tree": str(tree)}] if is_oid(tree):
            return _Parent(name, tree)
        case _:
            return None


def _is_here(git: Git, tree: str) -> bool:
    return git.is_partial() or bool(git.existing([tree]))


def _difference(adapter: _Made, again: Mapping[str, str], config: str) -> str | None:
    """What an adapter has other than its recipe gives, by the ids of its files."""
    here = adapter.stored.tensors
    differ = [file for file in {*here, *again} if here.get(file) != again.get(file)]
    made = f"(made by weft {adapter.recipe.get('weft')} with torch {adapter.recipe.get('torch')})"
    if differ:
        return f"{len(differ)} tensors differ from what its recipe gives, {min(differ)} is one {made}"
    return None if adapter.stored.texts[CONFIG] == config else f"{CONFIG} differs from it {made}"


def _parse_merge(recipe: Mapping[str, Any], name: str) -> tuple[Policy, list[str]]:
    match recipe:
        case {
            "merge": str(method),
            "options": dict(options),
            "commits": list(commits),
            "adapter": adapter,
        } if (
            adapter == name
            and not options.keys() & NOT_OPTIONS
            and all(isinstance(commit, str) and is_oid(commit) for commit in commits)
        ):
            weights = recipe.get("weights")
            if weights is None:
                return Policy(method, None, options), commits
            if isinstance(weights, list) and all(type(weight) in (int, float) for weight in weights):
                return Policy(method, tuple(map(float, weights)), options), commits
    raise AdapterFormatError("its recipe is no recipe of a merge")
