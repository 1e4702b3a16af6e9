"""Taking turns: one Weft process at a time changes a repository, and plain git beside it is waited for."""

import fcntl
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from weft.errors import SaveError
from weft.store.git import Git, GitError

_TRIES = 100
_PATIENCE = 2.0
"""Seconds to wait for another git process."""
_LOCK = re.compile(r"'([^']+\.lock)'")
T = TypeVar("T")


class LastingError(GitError):
    """What no second try would mend."""


def in_turn(git: Git, attempt: Callable[[], T | None]) -> T:
    """What an attempt returns; None means that someone else was faster, and it is made again.

    It is made again, too, when git refuses: `git commit` and `git gc` hold locks and move files for moments.
    Raises GitError for what does not pass within 2 seconds, a lock by its name; LastingError at once; and
    SaveError where others are always faster.
    """
    end = 0.0
    with _turn(git):
        for number in range(_TRIES):
            try:
                done = attempt()
                if done is not None:
                    return done
                end = 0.0
            except LastingError:
                raise
            except GitError as error:
                now = time.monotonic()
                end = end or now + _PATIENCE
                if now > end:
                    raise _named(error) from error
            time.sleep(random.uniform(0.25, 1) * 0.01 * min(number + 1, 20))
    raise SaveError(f"{git.root}: others committed {_TRIES} times in between; try again")


def _named(error: GitError) -> GitError:
    lock = _LOCK.search(str(error))
    if lock is None:
        return error
    return GitError(
        f"{os.path.normpath(lock[1])} is held: another git is at work, or one was killed there; "
        "when none is running, remove that file"
    )


@contextmanager
def _turn(git: Git) -> Iterator[None]:
    """The lock of a repository; it ends with the process, however that ends."""
    handle = os.open(git.folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
