"""A new version of the base: the last one with adapters folded in, kept as a recipe.

    W' = W + sum_k w_k s_k B_k A_k

The weights are derived when they are wanted and never stored. The adapters stay in a folder of the version,
as the very trees that were folded, so the recipe outlives whatever becomes of them elsewhere.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from weft.errors import BaseMismatchError, ConfigError, SaveError, UnknownNameError
from weft.files import nearest
from weft.store.checkout import contents, write_files
from weft.store.edit import Change, edit
from weft.store.gate import command_words, evaluate
from weft.store.git import Git
from weft.store.layout import ACCEPTED, STORE
from weft.store.objects import FILE, TREE, Entry, Objects
from weft.store.show import show
from weft.store.store_file import Part, Step, StoreFile, store_bytes
from weft.store.stored import Stored, accepted_at, adapters_at, manifest_of, store_at, stored_at


class Folding(NamedTuple):
    """One step of a base to its next version."""

    parent: str
    """Fingerprint before it."""
    folders: tuple[Path, ...]
    """PEFT folders of the adapters."""
    weights: tuple[float, ...]


Base = str | os.PathLike[str] | Callable[[Sequence[Folding], Path], str]
"""The base that a store began with or any version since: a folder, a hub id, a named model.

Or a function in their place, which folds steps, writes a model, and returns its fingerprint.
"""


class Accepted(NamedTuple):
    """What an `accept` did."""

    base: str
    """Fingerprint of the new version."""
    parent: str
    adapters: tuple[str, ...]
    commit: str | None


def accept(
    git: Git,
    names: Sequence[str],
    base: Base | None = None,
    *,
    weights: Sequence[float] | None = None,
    command: str | None = None,
    message: str | None = None,
) -> Accepted:
    """Fold adapters of HEAD into the base, and commit the recipe once an evaluation is content with it.

    The base is what the first adapter names unless given. `{}` in the command
    becomes the folder of the new base; it is run as `gate` runs it.

    Raises ConfigError for a store of no base, wrong weights, an evaluation that fails, and a base that stays
    what it was; UnknownNameError; BaseMismatchError for an adapter or weights of another version; what
    `Host.from_pretrained` raises. In each case nothing has changed.
    """
    words = [] if command is None else command_words(command)
    given = [1.0] * len(names) if weights is None else [float(weight) for weight in weights]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"name the adapters to accept, each once, not {', '.join(names) or 'none'}")
    if len(given) != len(names) or not all(map(isfinite, given)):
        raise ConfigError(f"{len(names)} adapters need as many finite weights, got {given}")
    head = git.commit_of("HEAD")
    file = store_at(git, head)
    if file.base is None:
        raise ConfigError(f"{git.root} names no base, so none can be accepted; set `base` in {STORE}")
    adapters = [stored_at(git, head, name) for name in names]
    for stored in adapters:
        its = manifest_of(git, stored).base
        if its != file.base:
            raise BaseMismatchError(
                f"{stored.name} belongs to base {its}, the store is at {file.base}; "
                "`weft store rebase` it first"
            )
    base = base or show(git, names[0]).config.get("base_model_name_or_path")
    if not base:
        raise ConfigError("no adapter names its base; name a folder of it with --base")
    with tempfile.TemporaryDirectory() as place:
        steps = foldings(git, accepted_at(git, git.tree_of(head), file), Path(place) / "before")
        steps.append(Folding(file.base, write_folders(git, adapters, Path(place) / "new"), tuple(given)))
        model = Path(place) / "base"
        fingerprint = derive(base, steps, model)
        if fingerprint in file.bases:
            raise ConfigError(
                f"with {', '.join(names)} the base has the fingerprint {fingerprint}, which it had before"
            )
        if words:
            evaluate("the new base", words, model)
    parts = tuple(Part(s.name, s.tree, weight) for s, weight in zip(adapters, given, strict=True))
    step = Step(fingerprint, file.base, parts)
    new = file._replace(base=fingerprint, accepted=(*file.accepted, step))

    def plan(objects: Objects, tree: str | None) -> Change:
        known = adapters_at(git, tree) if tree else {}
        moved = [part.name for part in parts if known.get(part.name) != part.tree]
        if moved or store_at(git, git.commit_of("HEAD")) != file:
            raise ConfigError(f"{', '.join(moved) or STORE} changed while the base was made; accept again")
        change: dict[tuple[str, ...], Entry | None] = {
            (ACCEPTED, fingerprint, part.name): Entry(TREE, part.tree) for part in parts
        }
        change[(STORE,)] = Entry(FILE, objects.add("blob", store_bytes(new)))
        return change

    commit = edit(git, plan, f"Accept {', '.join(names)} into the base" if message is None else message)
    return Accepted(fingerprint, file.base, tuple(names), commit)


def write_base(git: Git, out: Path, base: Base, version: str | None = None, rev: str = "HEAD") -> str:
    """Derive a version of the base (the last one unless named) into a folder; its fingerprint.

    Raises SaveError for a folder that holds something, UnknownNameError for a version, ConfigError for the
    first one, BaseMismatchError where the result is not what the recipe says, and what `accept` raises for
    weights. Only a whole model is written.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise SaveError(f"{out} holds something already; a base needs a folder of its own")
    commit = git.commit_of(rev)
    file = store_at(git, commit)
    wanted = version_of(file, version)
    steps = accepted_at(git, git.tree_of(commit), file)[: file.bases.index(wanted)]
    if not steps:
        raise ConfigError(f"{wanted} is the base that the store began with; there is nothing to derive")
    with tempfile.TemporaryDirectory() as place:
        # Beside its place, and not there before it is known to be right.
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as aside:
            model = Path(aside) / "base"
            found = derive(base, foldings(git, steps, Path(place)), model)
            if found != wanted:
                raise BaseMismatchError(
                    f"the recipe leads to {wanted}, folding gave {found}; begin with the very same weights"
                )
            model.replace(out)
    return wanted


def derive(base: Base, steps: Sequence[Folding], out: Path) -> str:
    """Fold steps into a base, and write it as a model; its fingerprint."""
    if callable(base):
        return base(steps, out)
    from weft.store.numbers import fold_base  # loads torch

    return fold_base(base, steps, out)


def version_of(file: StoreFile, version: str | None) -> str:
    """A version of a store's base, the last for None. Raises UnknownNameError, ConfigError for no base."""
    if file.base is None:
        raise ConfigError(f"the store names no base; set `base` in {STORE}")
    if version is not None and version not in file.bases:
        raise UnknownNameError(
            f"the base has no version {version}{nearest(version, file.bases)}; "
            f"there are {', '.join(file.bases)}"
        )
    return version or file.base


def foldings(git: Git, steps: Sequence[tuple[Step, list[Stored]]], place: Path) -> list[Folding]:
    """Steps with their adapters written as PEFT folders below a place."""
    return [
        Folding(
            step.parent,
            write_folders(git, adapters, place / str(number)),
            tuple(part.weight for part in step.adapters),
        )
        for number, (step, adapters) in enumerate(steps)
    ]


def write_folders(git: Git, adapters: Sequence[Stored], place: Path) -> tuple[Path, ...]:
    """Adapters as PEFT folders, in their order."""
    folders = []
    for stored in adapters:
        folder = place / stored.name
        folder.mkdir(parents=True)
        write_files(folder, contents(git, stored))
        folders.append(folder)
    return tuple(folders)
