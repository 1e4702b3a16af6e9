"""Every commit of a store, checked: hashes, trees, manifests, headers, numbers, signatures.

Git checks the hash of each object that it holds. What the objects say is checked here, each once however many
commits share it. Objects that a partial clone has not fetched are counted and left alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

from weft.errors import AdapterFormatError, MissingFileError, WeftError
from weft.store.folder import read_tensor
from weft.store.git import Git
from weft.store.header import strict_json
from weft.store.history import tags, versions
from weft.store.layout import (
    ADAPTERS,
    ATTRIBUTES,
    CONFIG,
    MANIFEST,
    MAX_ADAPTER,
    MAX_TENSOR,
    MAX_TEXT,
    STORE,
    TENSORS,
    check_apart,
)
from weft.store.manifest import parse_manifest, parse_store
from weft.store.objects import FILES
from weft.store.stored import Stored, adapters_at, open_tree

_CONVERTS = {"filter", "ident", "eol", "text", "crlf", "working-tree-encoding"}
_BROKEN = ("error", "missing", "broken", "fatal", "bad")
_MOST = 1000


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
        self.adapters: set[tuple[str, str]] = set()
        self.tensors: set[tuple[str, str]] = set()

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
            base = None
            if entries[STORE].mode not in FILES:
                raise AdapterFormatError(f"{STORE} is no file")
            if entries[STORE].oid not in self.missing:
                base = parse_store(self.git.read(entries[STORE].oid, "blob", MAX_TEXT), STORE)
            if ATTRIBUTES in entries and entries[ATTRIBUTES].oid not in self.missing:
                _check_attributes(self.git.read(entries[ATTRIBUTES].oid, "blob", MAX_TEXT))
            found = adapters_at(self.git, root)
            check_apart(found, ADAPTERS)
        except WeftError as error:
            self.problems.append(f"{where}: {error}")
            return
        for name, tree in found.items():
            if (name, tree) not in self.adapters:
                self.adapters.add((name, tree))
                try:
                    self.adapter(open_tree(self.git, name, tree), base)
                except WeftError as error:
                    self.problems.append(f"{where}: {error}")

    def adapter(self, stored: Stored, base: str | None) -> None:
        """Check one version of an adapter; tensors that were seen under the same name are well."""
        where = f"{ADAPTERS}/{stored.name}"
        here = {file: oid for file, oid in stored.texts.items() if oid not in self.missing}
        texts = dict(zip(here, self.git.read_all(list(here.values()), "blob", MAX_TEXT), strict=True))
        if MANIFEST in texts:
            manifest = parse_manifest(texts[MANIFEST], f"{where}/{MANIFEST}")
            if base and manifest.base and base != manifest.base:
                raise AdapterFormatError(f"{where} belongs to base {manifest.base}, the store to {base}")
        if CONFIG in texts:
            strict_json(texts[CONFIG], f"{where}/{CONFIG}")
        check_apart(stored.tensors, f"{where}/{TENSORS}")
        fresh = [
            (file, oid)
            for file, oid in stored.tensors.items()
            if oid not in self.missing and (file, oid) not in self.tensors
        ]
        oids = [oid for _, oid in fresh]
        total = sum(self.git.sizes(oids))
        if total > MAX_ADAPTER:
            raise AdapterFormatError(f"{where} has {total} bytes of tensors, at most {MAX_ADAPTER} are read")
        for row, blob in zip(fresh, self.git.read_all(oids, "blob", MAX_TENSOR), strict=True):
            read_tensor(row[0], blob, f"{where}/{TENSORS}")
            self.tensors.add(row)


def _hashes(git: Git) -> list[str]:
    """What git finds wrong with its own objects."""
    said = git.ask("fsck", "--full", "--no-dangling", "--no-progress")
    return [f"git: {line}" for line in said.splitlines() if line.startswith(_BROKEN)]


def _check_attributes(data: bytes) -> None:
    """Raise AdapterFormatError for attributes by which git would change files on their way."""
    for line in data.decode("utf-8", "replace").splitlines():
        for word in line.split()[1:]:
            if word.partition("=")[0] in _CONVERTS and not line.startswith("#"):
                raise AdapterFormatError(
                    f"{ATTRIBUTES} says {line.strip()!r:.80}, by which git would change files on their way"
                )
