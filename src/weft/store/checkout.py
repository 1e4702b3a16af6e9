"""An adapter out of the store: the very bytes that went in."""

import os
from collections.abc import Mapping
from pathlib import Path

from weft.checks import WEIGHTS, check_target
from weft.errors import SaveError
from weft.files import replace_folder
from weft.store.folder import put_together
from weft.store.git import Git
from weft.store.layout import ADAPTERS, CONFIG, MANIFEST, MAX_TEXT, TENSORS
from weft.store.manifest import parse_manifest
from weft.store.pointer import read_tensors
from weft.store.stored import Stored, stored_at
from weft.tensor_file import strict_json


def checkout(git: Git, name: str, out: str | os.PathLike[str], rev: str = "HEAD") -> Stored:
    """Write an adapter of a revision as a PEFT folder, and return what was read.

    What was at `out` stays whole until the new folder takes its place. Every blob is checked against its
    hash, every header against its bytes. Raises UnknownNameError, AdapterFormatError and SaveError.
    """
    stored = stored_at(git, git.commit_of(rev), name)
    replace_adapter(Path(out), contents(git, stored))
    return stored


def replace_adapter(out: Path, files: Mapping[str, list[bytes]]) -> None:
    """Write files as a folder in the place of an adapter. Raises SaveError for anything else there."""
    if out.is_symlink():
        raise SaveError(f"{out} is a file; an adapter needs a folder of its own")
    check_target(out)
    with replace_folder(out) as folder:
        write_files(folder, files)


def write_files(folder: Path, files: Mapping[str, list[bytes]]) -> None:
    """Write files, given in pieces, into a folder."""
    for file, parts in files.items():
        with (folder / file).open("wb") as handle:
            handle.writelines(parts)


def contents(git: Git, stored: Stored) -> dict[str, list[bytes]]:
    """The files of the PEFT folder of a stored adapter, each as pieces to be written in turn."""
    where = f"{ADAPTERS}/{stored.name}"
    git.fetch(git.missing(stored.tree))
    texts = dict(zip(stored.texts, git.read_all(list(stored.texts.values()), "blob", MAX_TEXT), strict=True))
    manifest = parse_manifest(texts.pop(MANIFEST), f"{where}/{MANIFEST}")
    strict_json(texts[CONFIG], f"{where}/{CONFIG}")
    blobs = read_tensors(git, stored.tensors, f"{where}/{TENSORS}")
    header, tensors, _ = put_together(blobs, manifest.metadata, manifest.header, f"{where}/{TENSORS}")
    return {WEIGHTS: [header, *tensors], **{file: [data] for file, data in texts.items()}}
