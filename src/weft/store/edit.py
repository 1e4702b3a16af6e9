"""A new commit with some paths replaced: in the repository, the index and the working folder.

    new tree    from HEAD's; objects are written first and belong to nothing yet
    index       and working folder follow by git's own two-tree merge, which keeps what others staged and
                refuses to overwrite edits
    HEAD        last, by compare and swap; whoever lost the race begins again on the new HEAD

Killed before the last step, the change is at most staged.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

from weft.errors import ConfigError
from weft.store.follow import follow, index_tree
from weft.store.git import Git, GitError
from weft.store.objects import TREE, Entry, Objects
from weft.store.turn import LastingError, in_turn

Change = Mapping[tuple[str, ...], Entry | None]
"""What lies at a path from now on; None removes it."""
_UNDERWAY = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD")


class Here(NamedTuple):
    """Where an edit begins."""

    head: str | None
    tree: str | None
    """HEAD's."""
    staged: str | None
    """The tree of the index; None in a bare repository."""


class Proposal(NamedTuple):
    """What is to become of HEAD."""

    change: Change
    parents: tuple[str, ...] = ()
    """Those of a merge; else HEAD is the parent, and a change of nothing makes no commit."""
    commit: str | None = None
    """One that has the change already: HEAD only follows."""


class _Done(NamedTuple):
    commit: str | None


def edit(git: Git, plan: Callable[[Objects, str | None], Change], message: str | None) -> str | None:
    """Commit a change, or only stage it where there is no message; id of the new commit, if any.

    `plan` gets HEAD's tree (the staged one without a message) and adds its objects; it is asked anew after a
    lost race. Raises what `advance` raises.
    """
    staging = message is None
    return advance(
        git, lambda objects, at: Proposal(plan(objects, at.staged if staging else at.tree)), message
    )


def advance(
    git: Git,
    propose: Callable[[Objects, Here], Proposal | None],
    message: str | None,
    note: str | None = None,
) -> str | None:
    """Make the commit that is proposed, and move HEAD, index and working folder to it.

    Without a message the change is staged. `propose` is asked anew after a lost race; None is no change.
    Raises ConfigError in the middle of a merge and for a message that is no text, EditedError for edits in
    the way, GitError or SaveError where git or the disk refuses.
    """
    git.secure()
    if message is None and git.bare:
        raise ConfigError(f"{git.root} is bare and has nowhere to stage; give a message (-m) to commit")
    text = None if message is None else _message(git, message)

    lost: Change = {}

    def attempt() -> _Done | None:
        nonlocal lost
        head = git.resolve("HEAD")
        tree = git.tree_of(head) if head else None
        index = None if git.bare else index_tree(git)
        objects = Objects(git.algorithm)
        if lost and tree is not None and replaced(git, objects, tree, lost) == tree:
            return _Done(head)  # it was staged when plain git committed, and went along
        proposal = propose(objects, Here(head, tree, index))
        if proposal is None:
            return _Done(None)
        change, parents, commit = proposal
        new = tree if text is None or commit else replaced(git, objects, tree, change)
        staged = None if index is None else replaced(git, objects, index, change)
        git.keep(objects)
        if text is not None and new is not None and (new != tree or parents) and not commit:
            commit = _commit(git, new, parents or ((head,) if head else ()), text)
        if index is not None and staged is not None and staged != index:
            follow(git, index, staged)
        if commit is not None and not _moved(git, head, commit, note or f"weft: {str(message).strip()}"):
            lost = {} if parents else change
            return None
        git.tidy()
        _say_if_detached(git, commit)
        return _Done(commit)

    return in_turn(git, attempt).commit


def replaced(git: Git, objects: Objects, tree: str | None, change: Change) -> str:
    """Id of a tree with some paths replaced; empty folders go. Raises ConfigError for a file in the way."""
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


def entry_at(git: Git, tree: str | None, path: tuple[str, ...]) -> Entry | None:
    """What a tree has at a path."""
    entry = None if tree is None else Entry(TREE, tree)
    for name in path:
        entry = git.tree(entry.oid, name).get(name) if entry and entry.mode == TREE else None
    return entry


def _entries(git: Git, objects: Objects, tree: str | None) -> dict[str, Entry]:
    if tree is None:
        return {}
    if tree in objects.content:
        return git.parse(objects.content[tree][1], tree)
    return git.tree(tree, tree)


def _message(git: Git, message: str) -> bytes:
    if not message.strip():
        raise ConfigError("the message of a commit cannot be empty")
    for name in _UNDERWAY:
        if (git.folder / name).exists():
            raise ConfigError(f"{git.root} is in the middle of a merge ({name}); finish it with `git commit`")
    try:
        return message.strip().encode() + b"\n"
    except UnicodeEncodeError as error:
        raise ConfigError(f"the message {message!r:.80} is no text in UTF-8; give one that is") from error


def _commit(git: Git, tree: str, parents: tuple[str, ...], text: bytes) -> str:
    words = [word for parent in parents for word in ("-p", parent)]
    try:
        return (
            git.run("commit-tree", *(["-S"] if git.signs else []), *words, tree, stdin=text).decode().strip()
        )
    except GitError as error:
        if git.signs:
            raise LastingError(
                f"no signed commit could be made, which commit.gpgsign asks for ({error}); name a key that "
                "is there by `git config user.signingkey`, or sign none by `git config commit.gpgsign false`"
            ) from error
        raise LastingError(str(error)) from error


def _say_if_detached(git: Git, commit: str | None) -> None:
    """Warn of a commit that no branch leads to: git forgets it once HEAD is elsewhere."""
    if commit is not None and not (git.folder / "HEAD").read_bytes().startswith(b"ref:"):
        warnings.warn(
            f"{git.root} is on no branch (its HEAD is detached), so nothing leads to {commit[:12]} once "
            f"another revision is checked out; keep it by `git branch NAME {commit[:12]}`",
            stacklevel=2,
        )


def _moved(git: Git, head: str | None, commit: str, note: str) -> bool:
    """Move HEAD's branch from one commit to the next, unless someone else moved it."""
    try:
        git.run("update-ref", "-m", note.splitlines()[0], "HEAD", commit, head or "0" * len(commit))
    except GitError:
        if git.resolve("HEAD") == head:
            raise
        return False
    return True
