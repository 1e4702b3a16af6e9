"""A new commit with some paths replaced: in the repository, the index and the working folder.

    new tree    from HEAD's; objects are written first and belong to nothing yet
    index       and working folder follow by git's own two-tree merge, which keeps what others staged and
                refuses to overwrite edits
    HEAD        last, by compare and swap; whoever lost the race begins again on the new HEAD

Killed before the last step, the change is at most staged.
"""

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from weft.errors import ConfigError, SaveError
from weft.store.git import Git, GitError
from weft.store.objects import TREE, Entry, Objects

Change = Mapping[tuple[str, ...], Entry | None]
"""What lies at a path from now on; None removes it."""
_TRIES = 100
_PATIENCE = 2.0
"""Seconds to wait for another git process."""
_UNDERWAY = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD")


def edit(git: Git, plan: Callable[[Objects, str | None], Change], message: str | None) -> str | None:
    """Commit a change, or only stage it where there is no message; id of the new commit, if any.

    `plan` gets HEAD's tree (the staged one without a message) and adds its objects; it is asked anew after a
    lost race. A change of nothing makes no commit. Raises ConfigError in the middle of a merge, GitError or
    SaveError where git or the disk refuses.
    """
    git.secure()
    if message is None and git.bare:
        raise ConfigError(f"{git.root} is bare and has nowhere to stage; give a message (-m) to commit")
    if message is not None:
        if not message.strip():
            raise ConfigError("the message of a commit cannot be empty")
        for name in _UNDERWAY:
            if (git.folder / name).exists():
                raise ConfigError(
                    f"{git.root} is in the middle of a merge ({name}); finish it with `git commit`"
                )
    with _turn(git):
        for attempt in range(_TRIES):
            head = git.resolve("HEAD")
            before = git.tree_of(head) if head else None
            index = None if git.bare else _index_tree(git)
            objects = Objects(git.algorithm)
            change = plan(objects, before if message is not None else index)
            commit, tree = None, None
            if message is not None:
                tree = replaced(git, objects, before, change)
            staged = None if git.bare else replaced(git, objects, index, change)
            git.keep(objects)
            if message is not None and tree != before:
                signed = ["-S"] if git.signs else []
                parent = ["-p", head] if head else []
                words = ["commit-tree", *signed, *parent, str(tree)]
                commit = git.run(*words, stdin=message.strip().encode() + b"\n").decode().strip()
            if staged is not None and staged != index:
                _follow(git, str(index), staged)
            if commit is None:
                return None
            if _moved(git, head, commit, message or ""):
                git.tidy()
                return commit
            time.sleep(random.uniform(0, 0.01 * min(attempt + 1, 20)))
    raise SaveError(f"{git.root}: others committed {_TRIES} times in between; try again")


def replaced(git: Git, objects: Objects, tree: str | None, change: Change) -> str:
    """Id of a tree with some paths replaced; folders that become empty go."""
    entries = _entries(git, objects, tree)
    deeper: dict[str, dict[tuple[str, ...], Entry | None]] = {}
    for (first, *rest), entry in change.items():
        if rest:
            deeper.setdefault(first, {})[tuple(rest)] = entry
        elif entry is None:
            entries.pop(first, None)
        else:
            entries[first] = entry
    for name, inner in deeper.items():
        old = entries.pop(name, None)
        if old is not None and old.mode != TREE:
            raise ConfigError(f"{name} is in the way: a folder is needed there")
        oid = replaced(git, objects, old.oid if old else None, inner)
        if _entries(git, objects, oid):
            entries[name] = Entry(TREE, oid)
    return objects.add_tree(entries)


def _entries(git: Git, objects: Objects, tree: str | None) -> dict[str, Entry]:
    if tree is None:
        return {}
    if tree in objects.content:
        return git.parse(objects.content[tree][1], tree)
    return git.tree(tree, tree)


def _index_tree(git: Git) -> str:
    try:
        return _patiently(lambda: git.run("write-tree")).decode().strip()
    except GitError as error:
        if "index.lock" in str(error):
            raise
        raise ConfigError(f"{git.root} has unmerged files ({error}); finish the merge first") from error


def _follow(git: Git, index: str, staged: str) -> None:
    """Bring index and working folder from one tree to another; edits that are not staged are never lost."""
    words = ("read-tree", "-m", "-u", index, staged)
    try:
        _patiently(lambda: git.run(*words))
    except GitError:
        # Files may only look edited: a clone or a touch changes their times.
        _patiently(lambda: git.run("update-index", "-q", "--refresh", ok=(0, 1)))
        _patiently(lambda: git.run(*words))


def _moved(git: Git, head: str | None, commit: str, message: str) -> bool:
    """Move HEAD's branch from one commit to the next, unless someone else moved it."""
    note = f"weft: {message.strip().splitlines()[0]}"
    try:
        git.run("update-ref", "-m", note, "HEAD", commit, head or "0" * len(commit))
    except GitError as error:
        if git.resolve("HEAD") == head and "lock" not in str(error):
            raise
        return False
    return True


def _patiently(call: Callable[[], bytes]) -> bytes:
    """Repeat a call while another git process holds the lock of the index."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return call()
        except GitError as error:
            if "index.lock" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.02)


@contextmanager
def _turn(git: Git) -> Iterator[None]:
    """One Weft process at a time edits a repository; the lock ends with the process, however it ends."""
    handle = os.open(git.folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
