"""Branches of a store into one, unattended, by the plan of plan_merge.py.

The commit has all parents, so plain git sees a merge of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from weft.errors import ConfigError
from weft.plain import plain
from weft.store.edit import Change, Here, Proposal, advance, entry_at
from weft.store.follow import EditedError
from weft.store.git import Git
from weft.store.layout import ADAPTERS, check_name
from weft.store.objects import Objects
from weft.store.plan_merge import Plan, plan_merge
from weft.store.store_file import Policy, by_rules
from weft.store.stored import store_at
from weft.store.three_way import histories, three_way


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
) -> Merged:
    """Merge revisions into HEAD, all in one commit.

    With a name only that adapter is merged; the commit then has HEAD alone as its parent, for the rest of the
    revisions is still to be merged. `on_conflict` is `fail`, `ours`, `theirs`, or a method of `weft.merging`
    with its options; None is what the rules of HEAD's store say, else `fail`. Weights are one for each
    parent, HEAD first.

    Raises ConfigError for a conflict under `fail` (every one named), for what no policy can decide, and for
    edits in the way; BaseMismatchError; UnknownNameError for a revision; what the method raises; and GitError
    or SaveError where git or the disk refuses. In each case nothing has changed.
    """
    if name is not None:
        check_name(name)
    if not revisions:
        raise ConfigError("there is nothing to merge; name a revision")
    message = f"Merge {', '.join(map(plain, revisions))}" if message is None else message
    given_weights = None if weights is None else tuple(map(float, weights))
    if on_conflict is None and options:
        raise ConfigError(f"{next(iter(options))} is for a method; name it with on_conflict")
    forced = (
        None if on_conflict is None else Policy(on_conflict.replace("-", "_"), given_weights, options or {})
    )
    if forced is not None and forced.is_method:
        from weft.store.delta import check_method  # loads torch

        check_method(forced.on_conflict, forced.options)
    done = Merged(None, (), (), (), 0.0)

    def propose(objects: Objects, at: Here) -> Proposal | None:
        nonlocal done
        head = git.commit_of("HEAD")
        file = store_at(git, head)
        methods = any(Policy(rule.on_conflict).is_method for rule in file.merge)
        if forced is None and given_weights and not methods:
            raise ConfigError(
                "weights are for a method, and neither on_conflict nor a rule of the store names one"
            )
        policies = by_rules(file, given_weights) if forced is None else (lambda _, policy=forced: policy)
        given = list(dict.fromkeys((head, *map(git.commit_of, revisions))))
        apart = git.run("merge-base", "--independent", *given).decode().split()
        done = Merged(None, (head,), (), (), 0.0)
        if apart == [head]:
            return None
        if len(apart) == 1 and name is None:
            plan = Plan(dict(three_way(git, histories(git, (head, apart[0]))).clean))
            proposal, parents = Proposal(plan.change, commit=apart[0]), (head,)
        else:
            parents = tuple(c for c in given if c in apart or c == head)
            plan = plan_merge(git, objects, parents, policies, name)
            if name is not None and not plan.change:
                return None
            proposal = Proposal(plan.change, parents if name is None else (head,))
        _check_staged(git, at, plan.change)
        adapters = {path[1] for path in plan.change if path[0] == ADAPTERS and len(path) > 1}
        decided = tuple(map(str, plan.decided))
        done = Merged(None, parents, tuple(sorted(adapters)), decided, plan.lost)
        return proposal

    try:
        commit = advance(git, propose, message, "weft: merge")
    except EditedError as error:
        raise ConfigError(f"edits in files that the merge changes: {error}") from error
    return done._replace(commit=commit)


def _check_staged(git: Git, at: Here, change: Change) -> None:
    """Raise EditedError for a path that is staged and would be overwritten."""
    if at.staged is None or at.staged == at.tree:
        return
    for path, entry in change.items():
        staged = entry_at(git, at.staged, path)
        if staged not in (entry, entry_at(git, at.tree, path)):
            raise EditedError(
                f"{'/'.join(path)} is staged; commit it, or `git restore --staged` takes it back"
            )
