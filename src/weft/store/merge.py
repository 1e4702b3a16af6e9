"""Branches of a store into one, unattended, by the plan of plan_merge.py.

The commit has all parents, so plain git sees a merge of its own. Objects are written first; then git's own
fast-forward moves index, working folder and branch, and refuses to overwrite edits.
"""

import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.errors import ConfigError, SaveError
from weft.store.edit import replaced
from weft.store.git import Git, GitError
from weft.store.layout import ADAPTERS, check_name
from weft.store.objects import Objects
from weft.store.plan_merge import Plan, plan_merge
from weft.store.policy import Policy, by_rules
from weft.store.stored import store_at
from weft.store.three_way import histories, three_way

if TYPE_CHECKING:
    from weft.store.delta import MergeAdapters

_TRIES = 100
_PATIENCE = 2.0
"""Seconds to wait for another git process."""


class Merged(NamedTuple):
    """What a merge did."""

    commit: str | None
    """None when there was nothing to merge."""
    parents: tuple[str, ...]
    """HEAD and what was merged into it; one where the branch only moved forward."""
    adapters: tuple[str, ...]
    """Those that changed at HEAD."""
    decided: tuple[str, ...]
    """The conflicts that the policy has decided."""
    lost: float
    """Largest relative error of a rank that a method has cut."""


def merge(
    git: Git,
    revisions: Sequence[str],
    *,
    name: str | None = None,
    message: str | None = None,
    on_conflict: str | None = None,
    weights: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    merge_adapters: "MergeAdapters | None" = None,
) -> Merged:
    """Merge revisions into HEAD, all in one commit.

    With a name only that adapter is merged; the commit then has HEAD alone as its parent, for the rest of the
    revisions is still to be merged. `on_conflict` is `fail`, `ours`, `theirs`, or a method of `weft.merging`
    with its options; None is what the rules of HEAD's store say, else `fail`. Weights are one for each
    parent, HEAD first; `merge_adapters` is `weft.merge`.

    Raises ConfigError for a conflict under `fail` (every one named), for what no policy can decide, and for
    edits in the way; BaseMismatchError; UnknownNameError for a revision; what the method raises; and GitError
    or SaveError where git or the disk refuses. In each case nothing has changed.
    """
    if name is not None:
        check_name(name)
    if not revisions:
        raise ConfigError("there is nothing to merge; name a revision")
    message = f"Merge {', '.join(revisions)}" if message is None else message.strip()
    if not message:
        raise ConfigError("the message of a commit cannot be empty")
    given_weights = None if weights is None else tuple(map(float, weights))
    if on_conflict is None and options:
        raise ConfigError(f"{next(iter(options))} is for a method; name it with on_conflict")
    told = None if on_conflict is None else Policy(on_conflict, given_weights, options or {})
    git.secure()
    end = time.monotonic() + _PATIENCE
    for attempt in range(_TRIES):
        head = git.commit_of("HEAD")
        file = store_at(git, head)
        if (
            told is None
            and given_weights
            and not any(Policy(rule.on_conflict).is_method for rule in file.merge)
        ):
            raise ConfigError(
                "weights are for a method, and neither on_conflict nor a rule of the store names one"
            )
        policies = by_rules(file, given_weights) if told is None else lambda _: told
        given = list(dict.fromkeys((head, *map(git.commit_of, revisions))))
        apart = git.run("merge-base", "--independent", *given).decode().split()
        if apart == [head]:
            return Merged(None, (head,), (), (), 0.0)
        if len(apart) == 1 and name is None:
            plan, commit, parents = Plan({}), apart[0], (head,)
            change = three_way(git, histories(git, (head, commit))).clean
        else:
            parents = tuple(c for c in given if c in apart or c == head)
            objects = Objects(git.algorithm)
            plan = plan_merge(git, objects, parents, policies, merge_adapters, name)
            change = plan.change
            if name is not None and not change:
                return Merged(None, (head,), (), (), 0.0)
            tree = replaced(git, objects, git.tree_of(head), change)
            git.keep(objects)
            words = [word for parent in (parents if name is None else (head,)) for word in ("-p", parent)]
            signed = ["-S"] if git.signs else []
            made = git.run("commit-tree", *signed, *words, tree, stdin=message.encode() + b"\n")
            commit = made.decode().strip()
        if _land(git, head, commit, end):
            adapters = {path[1] for path in change if path[0] == ADAPTERS and len(path) > 1}
            decided = tuple(str(conflict) for conflict in plan.decided)
            return Merged(commit, parents, tuple(sorted(adapters)), decided, plan.lost)
        time.sleep(random.uniform(0, 0.01 * min(attempt + 1, 20)))
    raise SaveError(f"{git.root}: others committed {_TRIES} times in between; try again")


def _land(git: Git, head: str, commit: str, end: float) -> bool:
    """Move HEAD, index and working folder forward to a commit; False where HEAD moved in between."""
    while True:
        try:
            if git.bare:
                git.run("update-ref", "-m", "weft: merge", "HEAD", commit, head)
            else:
                git.run(
                    "merge",
                    "--ff-only",
                    "--quiet",
                    "--no-stat",
                    "--no-autostash",
                    "--no-verify-signatures",
                    commit,
                )
            return True
        except GitError as error:
            if git.resolve("HEAD") != head:
                return False
            if "would be overwritten" in str(error):
                raise ConfigError(
                    f"{git.root} has edits in files that the merge changes; commit or stash them first "
                    "(`git status` names them)"
                ) from error
            if "lock" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.02)
