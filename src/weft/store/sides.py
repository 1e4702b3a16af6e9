"""One adapter as every side of a merge has it."""

from collections.abc import Mapping
from typing import NamedTuple

from weft.errors import BaseMismatchError
from weft.store.folder import read_tensor
from weft.store.git import Git
from weft.store.layout import ADAPTERS, CONFIG, MAX_TEXT, TENSORS, layer_of
from weft.store.manifest import Manifest
from weft.store.pointer import read_tensors
from weft.store.stored import Stored, adapters_at, manifest_of, open_tree, store_at
from weft.store.three_way import Bases, Histories, alive
from weft.tensor_file import strict_json


class Sides(NamedTuple):
    """An adapter in the commits that are merged and in their common ancestors; None where it is not."""

    name: str
    commits: tuple[str, ...]
    states: tuple[Stored | None, ...]
    bases: Bases[Stored | None]

    def alive(self) -> tuple[int, ...]:
        """The sides whose version of the adapter counts."""
        trees = [state.tree if state else None for state in self.states]
        before = {pair: tuple(one.tree if one else None for one in ones) for pair, ones in self.bases.items()}
        return alive(trees, before)

    def manifests(
        self, git: Git
    ) -> tuple[list[Manifest | None], dict[tuple[int, int], tuple[Manifest | None, ...]]]:
        """Their manifests, and those of the ancestors."""
        read = {
            one.tree: manifest_of(git, one)
            for one in (*self.states, *sum(self.bases.values(), ()))
            if one is not None
        }
        states = [read[state.tree] if state else None for state in self.states]
        bases = {
            pair: tuple(read[one.tree] if one else None for one in ones) for pair, ones in self.bases.items()
        }
        return states, bases

    def ancestor(self, git: Git) -> Stored | None:
        """What the common ancestor of the sides that count had; the first, where histories cross."""
        commits = [self.commits[k] for k in self.alive()]
        found = git.run("merge-base", "--octopus", *commits, ok=(0, 1)).decode().split()
        return _stored(git, found[0], self.name) if found else None


def sides_of_adapter(git: Git, histories: Histories, name: str) -> Sides:
    """Open one adapter everywhere. Raises AdapterFormatError for what is no adapter."""
    everywhere = {*histories.commits, *sum(histories.bases.values(), ())}
    opened = {commit: _stored(git, commit, name) for commit in everywhere}
    return Sides(
        name,
        histories.commits,
        tuple(opened[commit] for commit in histories.commits),
        {pair: tuple(opened[c] for c in commits) or (None,) for pair, commits in histories.bases.items()},
    )


def check_bases(git: Git, histories: Histories, adapters: Mapping[str, Sides]) -> None:
    """Raise BaseMismatchError where stores, or versions of one adapter that count, name different bases."""
    files = {commit: store_at(git, commit) for commit in histories.commits}
    stores = {file.base: commit for commit, file in files.items() if file.base}
    # One of them may have accepted adapters since: its base is a later version of the others'.
    store = max(files.values(), key=lambda file: len(file.bases))
    if not stores.keys() <= set(store.bases):
        told = ", ".join(f"{commit[:12]} for {base}" for base, commit in sorted(stores.items()))
        raise BaseMismatchError(f"stores of different bases cannot be merged: {told}")
    for name, sides in adapters.items():
        found = {}
        for k in sides.alive():
            state = sides.states[k]
            base = manifest_of(git, state).base if state else None
            if base:
                found[base] = sides.commits[k]
        if len(found) > 1:
            told = ", ".join(f"{commit[:12]} has {base}" for base, commit in sorted(found.items()))
            how = "; `weft store rebase` it first" if found.keys() <= set(store.bases) else ""
            raise BaseMismatchError(f"{name} belongs to different bases, which cannot be merged: {told}{how}")
        store.check_base(next(iter(found), None), name)


def _stored(git: Git, commit: str, name: str) -> Stored | None:
    tree = adapters_at(git, git.tree_of(commit)).get(name)
    return open_tree(git, name, tree) if tree else None


def misfit(git: Git, name: str, config: str, tensors: Mapping[str, str]) -> str | None:
    """What is wrong with an adapter put together from several sides: a rank that its other half lacks.

    It is only asked where sides have different configs; with one config all ranks agree.
    """
    where = f"{ADAPTERS}/{name}/{TENSORS}"
    values = strict_json(git.read(config, "blob", MAX_TEXT), f"{ADAPTERS}/{name}/{CONFIG}")
    wanted = None if values.get("rank_pattern") else values.get("r")
    ranks: dict[str, dict[str, int]] = {}
    for file, blob in read_tensors(git, tensors, where):
        tensor, (_, shape, _) = read_tensor(file, blob, where)
        for half, axis in ((".lora_A.weight", 0), (".lora_B.weight", -1)):
            if tensor.endswith(half) and shape:
                found = ranks.setdefault(layer_of(tensor), {})
                found[half] = found.get(half, 0) + shape[axis]
    for layer, found in ranks.items():
        if len(found) < 2 or len({*found.values(), wanted} - {None}) > 1:
            told = " and ".join(f"{half[1:7]} of rank {rank}" for half, rank in found.items())
            return f"{name}: {layer} would have {told}" + (f", r is {wanted}" if wanted else "")
    return None
