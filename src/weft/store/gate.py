"""Whether a contribution may be merged: it verifies, fits the base, and a command of ours is content with it.

The command is the user's own and runs where the user is; the contribution is only data to it.
"""

import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from weft.errors import ConfigError, MissingFileError, WeightsError
from weft.store.checkout import checkout
from weft.store.git import Git
from weft.store.layout import ADAPTERS
from weft.store.sides import check_bases, sides_of_adapter
from weft.store.stored import adapters_at
from weft.store.three_way import histories
from weft.store.verify import verify

_FOLDER = "{}"
_STDERR = 2


class Gated(NamedTuple):
    """What a contribution changes, all of it checked."""

    commit: str
    changed: tuple[str, ...]
    """Adapters that are new or different since it left HEAD's history; each was evaluated."""
    removed: tuple[str, ...]
    elsewhere: tuple[str, ...]
    """Other files that it changes, which nothing here has judged."""


def gate(git: Git, revision: str, command: str | None = None) -> Gated:
    """Check a branch that is to be merged into HEAD, then run a command on every adapter that it changes.

    `{}` in the command becomes the adapter's PEFT folder; without it the folder comes last. There is no
    shell. What the command prints goes to the error stream.

    Raises WeightsError for content that does not verify, BaseMismatchError, UnknownNameError for a revision,
    ConfigError for one on no branch or tag, for a wrong command, and for an evaluation that fails, and
    MissingFileError for a program that is not there.
    """
    words = [] if command is None else command_words(command)
    head, commit = git.commit_of("HEAD"), git.commit_of(revision)
    if not git.run("for-each-ref", "--count=1", "--contains", commit).strip():
        raise ConfigError(f"{revision} is on no branch or tag, so `verify` would not see it; make one")
    problems = verify(git).problems
    if problems:
        raise WeightsError(f"{git.root} has {len(problems)} problems; the first: {problems[0]}")
    sides = histories(git, (head, commit))
    before = [git.tree_of(base) for base in sides.bases[0, 1]]
    known = [adapters_at(git, tree) for tree in before] or [{}]
    here = adapters_at(git, git.tree_of(commit))
    changed = sorted(name for name, tree in here.items() if all(old.get(name) != tree for old in known))
    removed = sorted({name for old in known for name in old} - here.keys())
    check_bases(git, sides, {name: sides_of_adapter(git, sides, name) for name in changed})
    for name in changed if words else ():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / name
            checkout(git, name, folder, commit)
            evaluate(name, words, folder)
    return Gated(commit, tuple(changed), tuple(removed), _elsewhere(git, before, commit))


def command_words(command: str) -> list[str]:
    """The words of a command, one of them with `{}` for a folder. Raises ConfigError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"the command {command!r:.80} cannot be read: {error}") from error
    if not words:
        raise ConfigError("the command is empty")
    return words if any(_FOLDER in word for word in words) else [*words, _FOLDER]


def evaluate(name: str, command: list[str], folder: Path) -> None:
    """Run a command on a folder. Raises ConfigError unless it exits with 0, and MissingFileError."""
    words = [word.replace(_FOLDER, str(folder)) for word in command]
    try:
        status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=_STDERR).returncode
    except OSError as error:
        raise MissingFileError(f"cannot run {words[0]}: {error.strerror}") from error
    if status:
        raise ConfigError(f"{name} did not pass: {shlex.join(words)} exited with {status}")


def _elsewhere(git: Git, before: list[str], commit: str) -> tuple[str, ...]:
    """Paths outside of the adapters that differ from the ancestor."""
    old = git.tree(before[0], before[0]) if before else {}
    new = git.tree(git.tree_of(commit), commit)
    return tuple(sorted(name for name in {*old, *new} - {ADAPTERS} if old.get(name) != new.get(name)))
