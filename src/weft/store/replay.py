"""Every recipe that the store can run, run again and compared to the bit; the others are named.

A recipe is looked at in the commit that brought it: later versions of the adapter keep it in their lineage.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from weft.errors import WeftError
from weft.store.accept import Derive
from weft.store.git import Git
from weft.store.history import versions
from weft.store.layout import STORE
from weft.store.pieces import split_file
from weft.store.rebase import Combine
from weft.store.run_again import Gone, Made, fold_again, merge_again, rebase_again, stack_again
from weft.store.store_file import Step
from weft.store.stored import adapters_at, manifest_of, open_tree, store_at

if TYPE_CHECKING:
    from weft.store.delta import MergeAdapters


class Tools(NamedTuple):
    """What recipes are run with; those that need one that is None are named and not run."""

    merge_adapters: "MergeAdapters | None" = None
    """`weft.merge`."""
    combine: Combine | None = None
    derive: Derive | None = None
    """Has the weights of the base that the store began with."""


class Replayed(NamedTuple):
    """What came of running recipes again."""

    recipes: int
    """How many were run."""
    gone: tuple[str, ...]
    """One line for each that cannot be: what it needs is not here, or it is none of the store's."""
    problems: tuple[str, ...]
    """One line for each that gave other bytes, or none."""


class _Job(NamedTuple):
    """Something to do again: where it was done, and what compares the outcome."""

    where: str
    run: Callable[[], str | None]
    """What differs. Raises Gone, or another WeftError."""


def replay(git: Git, tools: Tools) -> Replayed:
    """Run the recipes of all that branches, tags and HEAD reach. No commit is made."""
    recipes, gone, problems = 0, [], []
    for where, run in _jobs(git, tools, problems):
        try:
            wrong = run()
        except Gone as reason:
            gone.append(f"{where}{reason}")
            continue
        except WeftError as error:
            problems.append(f"{where}: {error}")
            continue
        recipes += 1
        if wrong:
            problems.append(f"{where}: {wrong}")
    return Replayed(recipes, tuple(gone), tuple(problems))


def _jobs(git: Git, tools: Tools, problems: list[str]) -> Iterator[_Job]:
    """All that was made by a recipe; commits that cannot be read are problems."""
    read: dict[tuple[str, str], Made] = {}
    bases: dict[tuple[Step, ...], str] = {}

    def adapters(commit: str) -> dict[str, Made]:
        found = {}
        for name, tree in adapters_at(git, git.tree_of(commit)).items():
            if (name, tree) not in read:
                stored = open_tree(git, name, tree)
                read[name, tree] = Made(stored, manifest_of(git, stored).lineage)
            found[name] = read[name, tree]
        return found

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
            former = [known[name] for known in before if name in known]
            run = _run_of(git, tools, commit, adapter, former)
            if run is not None:
                yield _Job(f"{where}: {name}", run)
    for steps, commit in bases.items():
        if steps and not any(steps == more[: len(steps)] for more in bases if more != steps):
            for count, step in enumerate(steps, 1):
                yield _Job(
                    f"{commit[:12]}: base {step.base}", partial(fold_again, git, tools.derive, commit, count)
                )


def _run_of(
    git: Git, tools: Tools, commit: str, adapter: Made, former: Sequence[Made]
) -> Callable[[], str | None] | None:
    """What does an adapter's recipe again, None where this commit brought none."""
    recipe = adapter.recipe
    if recipe is not None and not any(old.recipe == recipe for old in former):
        if isinstance(recipe, dict) and "merge" in recipe:
            return partial(merge_again, git, tools.merge_adapters, commit, adapter)
        if isinstance(recipe, dict) and "rebase" in recipe:
            return partial(rebase_again, git, tools.combine, commit, adapter)
    parents = adapter.lineage.get("parents")
    is_new = parents is not None and not any(old.lineage.get("parents") == parents for old in former)
    if is_new and any(split_file(file)[1] for file in adapter.stored.tensors):
        return partial(stack_again, git, adapter)
    if recipe is not None and not any(old.recipe == recipe for old in former):
        return _not_ours
    return None


def _not_ours() -> str | None:
    raise Gone(" was made by a recipe of its own, which is not run here")
