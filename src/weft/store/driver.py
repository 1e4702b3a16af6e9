"""What git asks for one file that two sides changed: adapter.json key by key, everything else exactly.

Git calls a driver where it is configured. Without one it merges whole tensors by itself, and adapter.json by
lines. Rules of the store that choose a side are heeded; a method needs both halves of a module, and whole
branches: `weft store merge`.
"""

import os
from pathlib import Path

from weft.errors import AdapterFormatError, ConfigError, MissingFileError, UnknownNameError
from weft.files import replace_file
from weft.store.git import Git
from weft.store.layout import ADAPTERS, MANIFEST, MAX_TEXT
from weft.store.manifest import Manifest, manifest_bytes, merge_manifests, parse_manifest
from weft.store.store_file import FAIL, OURS, THEIRS, by_rules
from weft.store.stored import store_at
from weft.store.three_way import Conflict, alive


def policy_at(folder: str | os.PathLike[str], path: str) -> str:
    """What the rules of HEAD's store say about a file's conflicts; `fail` where there is no store."""
    try:
        with Git(folder) as git:
            file = store_at(git, git.commit_of("HEAD"))
    except (MissingFileError, UnknownNameError):
        return FAIL
    return by_rules(file)(Conflict(tuple(path.split("/")), ()).adapter).on_conflict


def merge_file(ancestor: Path, ours: Path, theirs: Path, path: str, on_conflict: str = FAIL) -> None:
    """Merge a file into `ours`, as git's merge drivers do; `path` is its place in the repository.

    An ancestor without content is none. `ours` and `theirs` decide conflicts; under any other policy they
    raise ConfigError, which names them. Raises AdapterFormatError
    for a damaged manifest, MissingFileError and SaveError; `ours` then is as it was.
    """
    place = tuple(path.split("/"))
    for file in (ancestor, ours, theirs):
        if not file.is_file():
            raise MissingFileError(f"no such file: {file}")
    if len(place) == 3 and place[0] == ADAPTERS and place[2] == MANIFEST:
        sides = [_manifest(file, path) for file in (ours, theirs)]
        before = {(0, 1): (_manifest(ancestor, path),)}
        found = merge_manifests(sides, before, last=on_conflict == THEIRS)
        if found.conflicts and on_conflict not in (OURS, THEIRS):
            keys = ", ".join(found.conflicts)
            raise ConfigError(f"conflict in {Conflict(place, ())}: both sides changed {keys}")
        replace_file(ours, manifest_bytes(found.manifest))
        return
    contents = [file.read_bytes() for file in (ours, theirs)]
    left = alive(contents, {(0, 1): (ancestor.read_bytes(),)})
    if len({contents[k] for k in left}) > 1 and on_conflict not in (OURS, THEIRS):
        raise ConfigError(f"conflict in {Conflict(place, ())}: both sides changed it")
    if left[-1 if on_conflict == THEIRS else 0] == 1:
        replace_file(ours, contents[1])


def _manifest(file: Path, path: str) -> Manifest | None:
    if file.stat().st_size > MAX_TEXT:
        raise AdapterFormatError(f"{path} has {file.stat().st_size} bytes, at most {MAX_TEXT} are read")
    data = file.read_bytes()
    return parse_manifest(data, path) if data else None
