"""An adapter of one version of the base, re-expressed on another: the same function of the same input.

    W2 = W1 + D,  D = sum_k w_k s_k B_k A_k          from the recipe of the version
    W1 + s B A = W2 + (s B A - D)                    [B, -D's] [A; D's]: exact, the ranks add up

Exact up to the rounding of W2 itself, which is kept in the number type of the base. On request the rank is
cut again, and what that loses is told.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from weft.errors import ConfigError
from weft.store.accept import foldings, version_of, write_folders
from weft.store.edit import Change, edit
from weft.store.folder import Parts, take_apart
from weft.store.git import Git
from weft.store.layout import ADAPTERS, CARD
from weft.store.objects import Objects
from weft.store.pointer import move_out
from weft.store.stored import (
    Stored,
    accepted_at,
    adapters_at,
    manifest_of,
    store_at,
    stored_at,
    write_adapter,
)


class Rebased(NamedTuple):
    """What a `rebase` did."""

    name: str
    commit: str | None
    before: str
    """Fingerprint of the base that it belonged to."""
    base: str
    lost: float
    """Relative error of the rank that was cut, of all sites together; 0 where none was."""


def rebase(
    git: Git,
    name: str,
    *,
    onto: str | None = None,
    rank: int | None = None,
    message: str | None = None,
) -> Rebased:
    """Bring an adapter of HEAD from its version of the base to another, the last one unless named.

    The base may be a later or an earlier one. The recipe goes into the lineage, metrics go out of it.

    Raises UnknownNameError for an adapter or a version, ConfigError for an adapter that is there already or
    of no known version, a rank below 1, and what `weft.load` raises. In each case nothing has changed.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"an adapter needs a rank of at least 1, got {rank}")
    head = git.commit_of("HEAD")
    file = store_at(git, head)
    target = version_of(file, onto)
    stored = stored_at(git, head, name)
    old = manifest_of(git, stored)
    if old.base is None or old.base not in file.bases:
        raise ConfigError(f"{name} belongs to base {old.base}, which is no version of this store's")
    if old.base == target:
        raise ConfigError(f"{name} belongs to base {target} already")
    parts, lost = combined(git, head, stored, old.base, target, rank)
    files = move_out(git, parts.tensors, file.blobs_over)
    lineage = {key: value for key, value in old.lineage.items() if key != "metrics"}
    lineage["recipe"] = {
        "rebase": name,
        "from": old.base,
        "onto": target,
        "rank": rank,
        "lost": lost,
        "weft": version("weft"),
        "torch": version("torch"),
    }
    lineage["parents"] = [{"name": name, "tree": stored.tree}]

    def plan(objects: Objects, tree: str | None) -> Change:
        known = adapters_at(git, tree) if tree else {}
        if known.get(name) != stored.tree:
            raise ConfigError(f"{name} changed in between; rebase it again")
        tensors, card = objects.add_files(files), stored.texts.get(CARD)
        return {(ADAPTERS, name): write_adapter(objects, parts, target, lineage, tensors, card)}

    commit = edit(git, plan, f"Rebase {name} onto {target}" if message is None else message)
    return Rebased(name, commit, old.base, target, lost)


def combined(
    git: Git, commit: str, stored: Stored, before: str, target: str, rank: int | None
) -> tuple[Parts, float]:
    """An adapter of one version of the base as one of another, both known to a commit; error of its rank."""
    from weft.store.numbers import combine  # loads torch

    file = store_at(git, commit)
    begin, end = file.bases.index(before), file.bases.index(target)
    steps = accepted_at(git, git.tree_of(commit), file)[min(begin, end) : max(begin, end)]
    with tempfile.TemporaryDirectory() as place:
        folders, weights = list(write_folders(git, [stored], Path(place))), [1.0]
        for step in foldings(git, steps, Path(place) / "steps"):
            folders += step.folders
            weights += [-weight if begin < end else weight for weight in step.weights]
        out = Path(place) / "out" / stored.name
        lost = combine(folders, weights, out, target, rank)
        return take_apart(out), lost
