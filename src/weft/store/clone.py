"""A store from elsewhere: whole, or with the tensors of a few adapters out of a thousand.

--filter      git's partial clone: commits and trees come at once, contents when they are asked for
adapters      git's sparse checkout: the working folder holds these alone, so only they are asked for
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from weft.errors import ConfigError
from weft.store.git import Git
from weft.store.layout import ADAPTERS, check_name
from weft.store.stored import adapters_at, no_adapter, open_tree, store_at


class Cloned(NamedTuple):
    """What came."""

    store: str
    adapters: int
    """How many the store has."""
    here: tuple[str, ...]
    """Those whose files are in the working folder."""
    filtered: bool
    """Whether contents wait in the remote; never where its server does not filter."""


def clone(
    url: str, folder: str | os.PathLike[str], adapters: Sequence[str] = (), *, filter: bool = False
) -> Cloned:
    """Clone a store. With `filter`, only what `adapters` need is fetched; without adapters, no tensor at all.

    Raises ConfigError for a folder that is in use and for names that are none, GitError where git refuses,
    MissingFileError where there is no store, UnknownNameError for an adapter, AdapterFormatError for content
    that is not safe. Nothing is left behind then.
    """
    target = Path(folder).absolute()
    for name in adapters:
        check_name(name)
    if adapters and not filter:
        raise ConfigError("naming adapters is for --filter; without it everything is fetched")
    existed = target.is_dir()
    if target.is_symlink() or (target.exists() and not existed):
        raise _in_use(target)
    target.mkdir(parents=True, exist_ok=True)
    with _held(target):
        if any(target.iterdir()):
            raise _in_use(target)
        try:
            said = Git.clone(url, target, filter)
            with Git(target) as git:
                return _check_out(git, adapters, filter and "not recognized by server" not in said)
        except BaseException:
            for left in target.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            if not existed:
                target.rmdir()
            raise


@contextmanager
def _held(target: Path) -> Iterator[None]:
    """Keep another clone out of a folder, which it would empty when git refuses it."""
    handle = os.open(target, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _in_use(target) from error
        yield
    finally:
        os.close(handle)


def _in_use(target: Path) -> ConfigError:
    return ConfigError(f"{target} is in use; name a folder that is new or empty")


def _check_out(git: Git, adapters: Sequence[str], filtered: bool) -> Cloned:
    git.secure()
    head = git.commit_of("HEAD")
    store_at(git, head)
    trees = adapters_at(git, git.tree_of(head))
    for name in adapters:
        if name not in trees:
            raise no_adapter(name, trees)
    here = tuple(dict.fromkeys(adapters)) if filtered or adapters else tuple(sorted(trees))
    for name in here:
        open_tree(git, name, trees[name])
    if filtered or adapters:
        # Given no folder, git checks out the files at the top.
        folders = "".join(f"{ADAPTERS}/{name}\n" for name in here).encode()
        git.run("sparse-checkout", "set", "--cone", "--stdin", stdin=folders)
    git.run("checkout", "--quiet")
    return Cloned(str(git.root), len(trees), here, filtered)
