"""One adapter as a commit holds it: its files by id, with every name and mode checked."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from weft.errors import AdapterFormatError, MissingFileError, UnknownNameError
from weft.files import nearest
from weft.store.folder import Parts, exact_header
from weft.store.git import Git
from weft.store.layout import (
    ACCEPTED,
    ADAPTERS,
    CARD,
    CONFIG,
    MANIFEST,
    MAX_TEXT,
    STORE,
    SUFFIX,
    TENSORS,
    check_name,
)
from weft.store.manifest import Manifest, manifest_bytes, parse_manifest
from weft.store.objects import FILE, FILES, TREE, Entry, Objects
from weft.store.store_file import Step, StoreFile, parse_store
from weft.tensor_file import MAX_TENSORS

_ROW = 300 + 40
"""Most bytes of a tree's entry: a file name of 255, mode, id."""


class Stored(NamedTuple):
    """An adapter's tree: ids of its texts and of its tensors, by file name."""

    name: str
    tree: str
    texts: Mapping[str, str]
    tensors: Mapping[str, str]


def store_at(git: Git, commit: str) -> StoreFile:
    """What the store at a commit says about itself. Raises MissingFileError where it holds no store."""
    entry = git.tree(git.tree_of(commit), commit).get(STORE)
    if entry is None:
        raise MissingFileError(f"{git.root} has no {STORE} at {commit[:12]}; `weft store init` makes a store")
    _regular(entry, STORE)
    return parse_store(git.read(entry.oid, "blob", MAX_TEXT), STORE)


def accepted_at(git: Git, tree: str, file: StoreFile) -> list[tuple[Step, list[Stored]]]:
    """The adapters that every version of the base was made of. Raises AdapterFormatError for other ones."""
    found = []
    folders = _below(git, git.tree(tree, tree), ACCEPTED) if file.accepted else {}
    for step in file.accepted:
        here = _below(git, folders, step.base)
        for part in step.adapters:
            if here.get(part.name) != Entry(TREE, part.tree):
                raise AdapterFormatError(
                    f"{ACCEPTED}/{step.base}/{part.name} is not the adapter that {STORE} speaks of"
                )
        found.append((step, [open_tree(git, part.name, part.tree) for part in step.adapters]))
    return found


def adapters_at(git: Git, tree: str) -> dict[str, str]:
    """Trees of all adapters below a root tree, by name. Raises AdapterFormatError for what is no adapter."""
    entry = git.tree(tree, tree).get(ADAPTERS)
    if entry is None:
        return {}
    if entry.mode != TREE:
        raise AdapterFormatError(f"{ADAPTERS} is {_kind(entry)}, expected a folder")
    return {name: _adapter_tree(name, found) for name, found in git.tree(entry.oid, ADAPTERS).items()}


def no_adapter(name: str, known: Iterable[str], where: str = "") -> UnknownNameError:
    """The error that a store has no adapter of a name."""
    return UnknownNameError(f"no adapter {name}{where}{nearest(name, known)}; `weft store list` names all")


def stored_at(git: Git, commit: str, name: str) -> Stored:
    """One adapter at a commit. Raises UnknownNameError, ConfigError for a bad name, AdapterFormatError."""
    check_name(name)
    store_at(git, commit)
    known = _below(git, git.tree(git.tree_of(commit), commit), ADAPTERS)
    if name not in known:
        raise no_adapter(name, known, f" at {commit[:12]}")
    return open_tree(git, name, _adapter_tree(name, known[name]))


def open_tree(git: Git, name: str, tree: str) -> Stored:
    """Check what an adapter's tree holds: known names, regular files. Raises AdapterFormatError."""
    where = f"{ADAPTERS}/{name}"
    entries = git.tree(tree, where)
    for needed in (MANIFEST, CONFIG, TENSORS):
        if needed not in entries:
            raise AdapterFormatError(f"{where} has no {needed}")
    texts, tensors = {}, {}
    for file, entry in entries.items():
        if file == TENSORS:
            if entry.mode != TREE:
                raise AdapterFormatError(f"{where}/{file} is {_kind(entry)}, expected a folder")
            tensors = git.tree(entry.oid, f"{where}/{file}", MAX_TENSORS * _ROW)
        elif file in (MANIFEST, CONFIG, CARD):
            texts[file] = _regular(entry, f"{where}/{file}")
        else:
            raise AdapterFormatError(f"{where} holds {file!r:.80}, which is no part of an adapter")
    if not 0 < len(tensors) <= MAX_TENSORS:
        raise AdapterFormatError(f"{where} has {len(tensors)} tensors, expected 1 to {MAX_TENSORS}")
    for file in tensors:
        if not file.endswith(SUFFIX) or "/" in file or file.startswith("."):
            raise AdapterFormatError(f"{where}/{TENSORS} holds {file!r:.80}, which is no tensor")
    oids = {file: _regular(entry, f"{where}/{TENSORS}/{file}") for file, entry in tensors.items()}
    return Stored(name, tree, texts, oids)


def write_adapter(
    objects: Objects,
    parts: Parts,
    base: str | None,
    lineage: Mapping[str, Any],
    tensors: Mapping[str, str],
    card: str | None = None,
) -> Entry:
    """The tree of an adapter: its texts, and the ids of its tensors by file name.

    `card` is the id of one that stays, in the words of its author.
    """
    manifest = Manifest(base, lineage, parts.header.metadata, exact_header(parts.header))
    texts = {MANIFEST: manifest_bytes(manifest), **parts.texts}
    oids = objects.add_files(texts) | ({CARD: card} if card else {})
    entries = {file: Entry(FILE, oid) for file, oid in oids.items()}
    entries[TENSORS] = Entry(
        TREE, objects.add_tree({file: Entry(FILE, oid) for file, oid in tensors.items()})
    )
    return Entry(TREE, objects.add_tree(entries))


def manifest_of(git: Git, stored: Stored) -> Manifest:
    """The manifest of an adapter."""
    source = f"{ADAPTERS}/{stored.name}/{MANIFEST}"
    return parse_manifest(git.read(stored.texts[MANIFEST], "blob", MAX_TEXT), source)


def _adapter_tree(name: str, entry: Entry) -> str:
    check_name(name)
    if entry.mode != TREE:
        raise AdapterFormatError(f"{ADAPTERS}/{name} is {_kind(entry)}, expected a folder")
    return entry.oid


def _below(git: Git, entries: Mapping[str, Entry], name: str) -> Mapping[str, Entry]:
    entry = entries.get(name)
    return git.tree(entry.oid, name) if entry is not None and entry.mode == TREE else {}


def _regular(entry: Entry, where: str) -> str:
    if entry.mode not in FILES:
        raise AdapterFormatError(f"{where} is {_kind(entry)}, expected a file")
    return entry.oid


def _kind(entry: Entry) -> str:
    kinds = {TREE: "a folder", "120000": "a symbolic link", "160000": "a submodule"}
    return kinds.get(entry.mode, f"of mode {entry.mode!r:.20}" if entry.mode not in FILES else "a file")
