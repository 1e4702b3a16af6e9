"""Index and working folder brought from one tree to another; edits that are in no commit are never lost.

Git's own two-tree merge does it, and refuses where a file is not what the index says. Such a file may be what
a killed process has left: then the repository holds its content, or it is the beginning of one, and it goes.
"""

import os
from pathlib import Path

from weft.checks import MAX_TENSOR
from weft.errors import AdapterFormatError, ConfigError
from weft.store.git import Git, GitError
from weft.store.layout import SUFFIX, file_of
from weft.store.objects import object_id
from weft.store.pieces import split_file
from weft.store.turn import LastingError
from weft.tensor_file import header_size, parse, strict_json


class EditedError(LastingError):
    """A file in the working folder that would be overwritten and is in no commit."""


def follow(git: Git, index: str, staged: str) -> None:
    """Go from the tree of the index to another. Raises EditedError, and GitError for what may pass."""
    words = ("read-tree", "-m", "-u", index, staged)
    try:
        git.run(*words)
    except GitError:
        # Files may only look edited: a clone or a touch changes their times.
        git.run("update-index", "-q", "--refresh", ok=(0, 1))
        if index_tree(git) != index:
            raise  # plain git was faster
        _clear_the_way(git, index, staged)
        try:
            git.run(*words)
        except GitError as error:
            if ".lock'" in str(error) or index_tree(git) != index:
                raise
            raise LastingError(str(error)) from error


def index_tree(git: Git) -> str:
    """Id of the tree that the index holds. Raises ConfigError in the middle of a merge."""
    try:
        return git.run("write-tree").decode().strip()
    except GitError as error:
        if git.run("ls-files", "--unmerged"):
            raise ConfigError(f"{git.root} has unmerged files ({error}); finish the merge first") from error
        raise


def _clear_the_way(git: Git, index: str, staged: str) -> None:
    """Take away what a killed process has left. Raises EditedError for anything else, before any is."""
    said = git.run("diff-tree", "-r", "-z", "--no-renames", index, staged).decode("utf-8", "surrogateescape")
    fields = iter(said.split("\0"))
    left, unknown = [], {}
    for row, path in zip(fields, fields, strict=False):
        mode, _, old, new, _ = row.removeprefix(":").split(" ")
        place = git.root / path
        if not os.path.lexists(place):
            continue
        if not _is_plain(git.root, place) or place.stat().st_size > MAX_TENSOR:
            raise _edited(git, path, mode)
        data = place.read_bytes()
        oid = object_id("blob", data, git.algorithm)
        if oid not in (old, new) and not _is_torn(git, place, data, (old, new)):
            unknown[oid] = path, mode
        if oid != old:
            left.append(place)
    lost = unknown.keys() - git.existing(list(unknown))
    if lost:
        raise _edited(git, *min(unknown[oid] for oid in lost))
    for place in left:
        place.unlink()


def _is_plain(root: Path, place: Path) -> bool:
    """A file that no link leads to."""
    links = (
        folder.is_symlink() for folder in place.parents if folder.is_relative_to(root) and folder != root
    )
    return place.is_file() and not place.is_symlink() and not any(links)


def _is_torn(git: Git, place: Path, data: bytes, oids: tuple[str, ...]) -> bool:
    """Whether these are the first bytes of one of some blobs, or of any tensor."""
    there = [oid for oid in oids if oid.strip("0")]
    if any(blob.startswith(data) for blob in git.read_all(there, "blob", MAX_TENSOR)):
        return True
    if place.suffix != SUFFIX:
        return False
    try:
        size = header_size(data[:8], len(data), place)
        text = data[8 : 8 + size]
        ends = [value["data_offsets"][1] for value in strict_json(text, place).values()]
        (spec,) = parse(text, ends[-1], place).specs
    except (AdapterFormatError, LookupError, TypeError, ValueError):
        return False
    return len(data) < 8 + size + spec.end and file_of(spec.name) == split_file(place.name)[0]


def _edited(git: Git, path: str, mode: str) -> EditedError:
    how = f"`git restore {path}` drops them" if mode.strip("0") else f"`git clean {path}` removes it"
    return EditedError(f"{git.root / path} has edits that no commit holds; commit them, or {how}")
