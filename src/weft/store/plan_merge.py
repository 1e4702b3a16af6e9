"""What a merge will do, adapter by adapter, before anything is written.

clean       per tensor, by three_way.py: no number is read
conflicts   `fail`, `ours` (the first parent that changed it), `theirs` (the last), or a method of
            `weft.merge` on the modules concerned, by delta.py; the adapter's lineage then tells the recipe
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from weft.errors import ConfigError
from weft.store.edit import entry_at
from weft.store.git import Git
from weft.store.layout import ADAPTERS, CARD, CONFIG, MANIFEST, TENSORS, check_portable
from weft.store.manifest import LINEAGE, MergedManifest, manifest_bytes, merge_manifests
from weft.store.objects import FILE, Entry, Objects
from weft.store.pointer import move_out
from weft.store.sides import Sides, check_bases, misfit, sides_of_adapter
from weft.store.store_file import FAIL, OURS, THEIRS, Policies, Policy
from weft.store.stored import adapters_at, store_at, write_adapter
from weft.store.three_way import Changes, Conflict, TreePath, histories, three_way

_NAMED = 8
"""Conflicts that an error names; it counts the others."""


class Plan(NamedTuple):
    """What becomes of the first parent."""

    change: dict[TreePath, Entry | None]
    decided: tuple[Conflict, ...] = ()
    """Conflicts that the policy has decided."""
    undecided: tuple[Conflict, ...] = ()
    lost: float = 0.0
    """Largest relative error of a rank that a method has cut."""


def plan_merge(
    git: Git,
    objects: Objects,
    commits: Sequence[str],
    policies: Policies,
    name: str | None = None,
) -> Plan:
    """Decide about everything, or about one adapter; new files go to `objects`.

    Raises ConfigError for what its policy does not decide (each conflict named) and for weights of another
    number, BaseMismatchError, AdapterFormatError for content that is no adapter, and what the method raises.
    """
    weights = policies("").weights
    if weights is not None and len(weights) != len(commits):
        raise ConfigError(f"{len(weights)} weights for {len(commits)} parents; give one for each, HEAD first")
    sides = histories(git, commits)
    parts = _by_adapter(three_way(git, sides, (ADAPTERS, name) if name else ()))
    rest = parts.pop("", Changes({}, ()))
    opened = {adapter: sides_of_adapter(git, sides, adapter) for adapter in sorted(parts)}
    check_bases(git, sides, opened)
    plans = [_choose(git, commits, rest, policies(""))]
    for adapter, its in opened.items():
        plans.append(_plan_adapter(git, objects, its, parts[adapter], policies(adapter)))
    undecided = [conflict for plan in plans for conflict in plan.undecided]
    if undecided:
        raise ConfigError(_told(undecided, policies(undecided[0].adapter)))
    change = {path: entry for plan in plans for path, entry in plan.change.items()}
    gone = {adapter for adapter in parts if change.get((ADAPTERS, adapter), rest) is None}
    check_portable({*adapters_at(git, git.tree_of(commits[0])), *parts} - gone, ADAPTERS)
    decided = tuple(conflict for plan in plans for conflict in plan.decided)
    return Plan(change, decided, (), max(plan.lost for plan in plans))


def _by_adapter(changes: Changes) -> dict[str, Changes]:
    """Changes by the adapter that they are in; empty for what lies elsewhere."""
    clean: dict[str, dict[TreePath, Entry | None]] = {}
    conflicts: dict[str, list[Conflict]] = {}
    for path, entry in changes.clean.items():
        clean.setdefault(Conflict(path, ()).adapter, {})[path] = entry
    for conflict in changes.conflicts:
        conflicts.setdefault(conflict.adapter, []).append(conflict)
    return {
        adapter: Changes(clean.get(adapter, {}), tuple(conflicts.get(adapter, ())))
        for adapter in {*clean, *conflicts}
    }


def _plan_adapter(
    git: Git,
    objects: Objects,
    its: Sides,
    found: Changes,
    policy: Policy,
) -> Plan:
    if any(len(conflict.path) == 2 for conflict in found.conflicts):
        return _choose(git, its.commits, found, policy)  # removed here and changed there
    path = (ADAPTERS, its.name, MANIFEST)
    manifest = merge_manifests(*its.manifests(git), last=policy.on_conflict == THEIRS)
    clean, keys = dict(found.clean), ()
    if any(conflict.path == path for conflict in found.conflicts):
        clean[path] = Entry(FILE, objects.add("blob", manifest_bytes(manifest.manifest)))
        keys = tuple(Conflict((*path, key), ()) for key in manifest.conflicts)
    files = tuple(conflict for conflict in found.conflicts if conflict.path != path)
    if not policy.is_method:
        plan = _choose(git, its.commits, Changes(clean, files), policy)
        if policy.on_conflict == FAIL:
            plan = plan._replace(undecided=keys + plan.undecided)
        else:
            plan = plan._replace(decided=keys + plan.decided)
        wrong = None if plan.undecided else _misfit(git, its, plan.change)
        if wrong:
            raise ConfigError(f"{wrong}; only a method can merge it (--on-conflict concat)")
        return plan
    if not keys and not files and not _misfit(git, its, clean):
        return Plan(clean)
    tree, lost = _by_method(git, objects, its, clean, manifest, policy)
    return Plan({path[:2]: tree}, keys + files, (), lost)


def _choose(git: Git, commits: Sequence[str], found: Changes, policy: Policy) -> Plan:
    """Take one side's version of every conflict, or leave them open."""
    if policy.on_conflict not in (OURS, THEIRS):
        return Plan(dict(found.clean), (), found.conflicts)
    change = dict(found.clean)
    for conflict in found.conflicts:
        k = conflict.sides[0 if policy.on_conflict == OURS else -1]
        change[conflict.path] = entry_at(git, git.tree_of(commits[k]), conflict.path)
    return Plan(change, found.conflicts)


def _by_method(
    git: Git,
    objects: Objects,
    its: Sides,
    clean: Mapping[TreePath, Entry | None],
    manifest: MergedManifest,
    policy: Policy,
) -> tuple[Entry, float]:
    """The tree of an adapter whose deltas were merged, its recipe in the lineage."""
    from weft.store.delta import join  # loads torch

    commits = [its.commits[k] for k in its.alive()]
    parts, lost = join(git, its, policy.on_conflict, policy.weights, policy.options)
    lineage = dict(manifest.manifest.lineage)
    for key, values in manifest.conflicts.items():
        lineage[key.removeprefix("lineage.")] = [value for value in values if value is not None]
    # Metrics were measured on other numbers than these.
    lineage = {key: value for key, value in lineage.items() if key in LINEAGE and key != "metrics"}
    lineage["recipe"] = {
        "merge": policy.on_conflict,
        "adapter": its.name,
        "weights": policy.weights and list(policy.weights),
        "options": dict(policy.options),
        "commits": list(its.commits),
        "weft": version("weft"),
        "torch": version("torch"),
    }
    lineage["parents"] = commits
    files = move_out(git, parts.tensors, store_at(git, its.commits[0]).blobs_over)
    card = clean.get((ADAPTERS, its.name, CARD))
    base, oids = manifest.manifest.base, objects.add_files(files)
    return write_adapter(objects, parts, base, lineage, oids, card and card.oid), lost


def _misfit(git: Git, its: Sides, change: Mapping[TreePath, Entry | None]) -> str | None:
    """What is wrong with a mixture of sides that have different configs."""
    sides = [state for k in its.alive() if (state := its.states[k])]
    if len({state.texts[CONFIG] for state in sides}) < 2:
        return None
    tree = change.get((ADAPTERS, its.name), change.get((ADAPTERS, its.name, TENSORS)))
    first = its.states[0]
    if first is None or (ADAPTERS, its.name) in change:
        return None  # one side's, whole
    tensors = dict(first.tensors)
    if tree is not None:
        tensors = {file: entry.oid for file, entry in git.tree(tree.oid, its.name).items()}
    for path, entry in change.items():
        if len(path) == 4 and path[2] == TENSORS:
            tensors.pop(path[3], None)
            if entry is not None:
                tensors[path[3]] = entry.oid
    config = change.get((ADAPTERS, its.name, CONFIG))
    text = config.oid if config else first.texts[CONFIG]
    if any(state.texts[CONFIG] == text and state.tensors == tensors for state in sides):
        return None
    return misfit(git, its.name, text, tensors)


def _told(conflicts: Sequence[Conflict], policy: Policy) -> str:
    named = "; ".join(map(str, conflicts[:_NAMED]))
    if len(conflicts) > _NAMED:
        named += f"; and {len(conflicts) - _NAMED} more"
    count = "1 conflict" if len(conflicts) == 1 else f"{len(conflicts)} conflicts"
    how = (
        f"{policy.on_conflict} merges numbers, choose ours or theirs for these"
        if policy.is_method
        else "--on-conflict ours, theirs or a method decides"
    )
    return f"{count}, nothing was merged: {named}; {how}"
