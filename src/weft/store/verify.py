"""Every commit of a store, checked: hashes, trees, manifests, headers, numbers, signatures.

Git checks the hash of each object that it holds. What the objects say is checked here, each once however many
commits share it. Objects that a partial clone has not fetched are counted and left alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

from weft.errors import AdapterFormatError, MissingFileError, WeftError
from weft.store.folder import read_tensor
from weft.store.git import Git
from weft.store.history import tags, versions
from weft.store.layout import (
    ADAPTERS,
    ATTRIBUTES,
    CONFIG,
    MANIFEST,
    MAX_TEXT,
    STORE,
    TENSORS,
    check_halves,
    check_portable,
    converting_line,
)
from weft.store.manifest import parse_manifest
from weft.store.objects import FILES
from weft.store.pieces import joined_shape, pieces_of
from weft.store.pointer import read_tensors
from weft.store.store_file import StoreFile, parse_store
from weft.store.stored import Stored, accepted_at, adapters_at, open_tree
from weft.tensor_file import strict_json

_BROKEN = ("error", "missing", "broken", "fatal", "bad")
_MOST = 1000

Shapes = Mapping[str, tuple[int, ...]]


class Verified(NamedTuple):
    """What a walk through the history found."""

    commits: int
    adapters: int
    """Distinct versions of adapters."""
    tensors: int
    """Distinct tensors that were read."""
    missing: int
    """Objects that a partial clone has left in its remote."""
    signatures: Mapping[str, int]
    """How many commits have which state of signature."""
    tags: Mapping[str, str]
    """State of the signature of each annotated tag."""
    problems: tuple[str, ...]
    """One line each, at most 1000; empty when all is well."""


def verify(git: Git) -> Verified:
    """Check all that a branch, a tag or HEAD can reach. Raises MissingFileError where none is a store."""
    walk = _Walk(git)
    history = versions(git, "--all")
    signatures: dict[str, int] = {}
    for version in history:
        signatures[version.signature] = signatures.get(version.signature, 0) + 1
        if version.signature == "bad":
            walk.problems.append(f"{version.commit[:12]}: the signature is bad")
        walk.commit(version.commit)
    if not walk.stores:
        raise MissingFileError(f"{git.root} has no commit with a {STORE}; `weft store init` makes a store")
    for tip in _tips(git):
        walk.attributes(tip)
    signed = tags(git)
    walk.problems += [f"tag {name}: the signature is bad" for name, state in signed.items() if state == "bad"]
    return Verified(
        len(history),
        len(walk.adapters),
        len(walk.tensors),
        len(walk.missing),
        signatures,
        signed,
        tuple(walk.problems[:_MOST]),
    )


class _Walk:
    """What has been seen so far."""

    def __init__(self, git: Git) -> None:
        self.git = git
        self.problems = _hashes(git)
        self.missing = set(git.missing("--all"))
        self.stores = 0
        self.roots: set[str] = set()
        self.adapters: dict[tuple[str, str], tuple[str | None, Shapes] | None] = {}
        self.fitted: set[tuple[str, str, str]] = set()
        self.tensors: dict[tuple[str, str], tuple[str, str, tuple[int, ...]]] = {}

    def commit(self, oid: str) -> None:
        """Check the tree of a commit; one without a store file is something else, and passed over."""
        where = oid[:12]
        try:
            root = self.git.tree_of(oid)
            if root in self.roots:
                return
            self.roots.add(root)
            entries = self.git.tree(root, where)
            if STORE not in entries:
                return
            self.stores += 1
            file = StoreFile()
            if entries[STORE].mode not in FILES:
                raise AdapterFormatError(f"{STORE} is no file")
            if entries[STORE].oid not in self.missing:
                file = parse_store(self.git.read(entries[STORE].oid, "blob", MAX_TEXT), STORE)
            found = adapters_at(self.git, root)
            check_portable(found, ADAPTERS)
            folded = accepted_at(self.git, root, file)
        except WeftError as error:
            self.problems.append(f"{where}: {error}")
            return
        for step, adapters in folded:
            for stored in adapters:
                self.fit(where, stored, StoreFile(step.parent, modules=file.modules), step.parent)
        for name, tree in found.items():
            try:
                self.fit(where, open_tree(self.git, name, tree), file, entries[STORE].oid)
            except WeftError as error:
                self.problems.append(f"{where}: {error}")

    def attributes(self, tip: str) -> None:
        """Check that git leaves files as they are. Earlier commits do not count: their content is checked."""
        entries = self.git.tree(self.git.tree_of(tip), tip)
        entry = entries.get(ATTRIBUTES)
        if STORE not in entries or entry is None or entry.oid in self.missing:
            return
        if entry.mode not in FILES:
            self.problems.append(f"{tip[:12]}: {ATTRIBUTES} is no file")
            return
        line = converting_line(self.git.read(entry.oid, "blob", MAX_TEXT))
        if line is not None:
            self.problems.append(
                f"{tip[:12]}: {ATTRIBUTES} says {line!r:.80}, by which git would change files on their way; "
                f"docs/store.md has the lines to put below it"
            )

    def fit(self, where: str, stored: Stored, file: StoreFile, of: str) -> None:
        """Check a version of an adapter once, and that it fits what each store says about its base."""
        key = stored.name, stored.tree
        if (*key, of) in self.fitted:
            return
        self.fitted.add((*key, of))
        try:
            if key not in self.adapters:
                self.adapters[key] = None
                self.adapters[key] = self.adapter(stored)
            facts = self.adapters[key]
            if facts is not None:
                file.check_base(facts[0], f"{ADAPTERS}/{stored.name}")
                file.check_modules(facts[1], f"{ADAPTERS}/{stored.name}")
        except WeftError as error:
            self.problems.append(f"{where}: {error}")

    def adapter(self, stored: Stored) -> tuple[str | None, Shapes]:
        """Base and shapes of a version of an adapter; tensors that were seen under the same name are well."""
        where = f"{ADAPTERS}/{stored.name}"
        base = None
        here = {file: oid for file, oid in stored.texts.items() if oid not in self.missing}
        texts = dict(zip(here, self.git.read_all(list(here.values()), "blob", MAX_TEXT), strict=True))
        if MANIFEST in texts:
            base = parse_manifest(texts[MANIFEST], f"{where}/{MANIFEST}").base
        if CONFIG in texts:
            strict_json(texts[CONFIG], f"{where}/{CONFIG}")
        check_portable(stored.tensors, f"{where}/{TENSORS}")
        pieces = pieces_of(stored.tensors, f"{where}/{TENSORS}")
        fresh = {
            file: oid
            for file, oid in stored.tensors.items()
            if oid not in self.missing and (file, oid) not in self.tensors
        }
        for file, blob in read_tensors(self.git, fresh, f"{where}/{TENSORS}"):
            name, values = read_tensor(file, blob, f"{where}/{TENSORS}")
            self.tensors[file, fresh[file]] = name, values.dtype, values.shape
        shapes = {}
        for files in pieces.values():
            read = [self.tensors.get((file, stored.tensors[file])) for file in files]
            whole = [values for values in read if values is not None]
            if len(whole) == len(files):  # the others lie in the remote
                name = whole[0][0]
                shapes[name] = joined_shape(name, [values[1:] for values in whole], where)[1]
        check_halves(shapes, pieces, where)
        return base, shapes


def _tips(git: Git) -> list[str]:
    """HEAD and the ends of all branches, here and as they were fetched; a tag is a thing of the past."""
    listed = git.run("for-each-ref", "--format=%(objecttype) %(objectname) %(refname)").decode(
        "utf-8", "replace"
    )
    rows = (line.split(" ", 2) for line in listed.splitlines())
    tips = [oid for kind, oid, name in rows if kind == "commit" and not name.startswith("refs/tags/")]
    head = git.resolve("HEAD")
    return list(dict.fromkeys([*tips, *([head] if head else [])]))


def _hashes(git: Git) -> list[str]:
    """What git finds wrong with its own objects."""
    said = git.ask("fsck", "--full", "--no-dangling", "--no-progress")
    return [f"git: {line}" for line in said.splitlines() if line.startswith(_BROKEN)]
