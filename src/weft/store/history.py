"""The versions of a store or of one adapter, and who signed them."""

from typing import NamedTuple

from weft.store.git import Git
from weft.store.layout import ADAPTERS, check_name

_SIGNATURES = {
    "G": "good",
    "U": "good, key not trusted",
    "X": "good, expired",
    "Y": "good, key expired",
    "R": "good, key revoked",
    "B": "bad",
    "E": "cannot be checked",
    "N": "none",
}
_FIELDS = ("%H", "%aI", "%an", "%s", "%G?")


class Version(NamedTuple):
    """One commit."""

    commit: str
    date: str
    author: str
    message: str
    signature: str
    """`good`, `bad`, `none`, `cannot be checked`, or good with a doubt."""


def log(git: Git, name: str | None = None, rev: str = "HEAD") -> list[Version]:
    """Versions, newest first: those that touched one adapter, or all. Raises UnknownNameError."""
    commit = git.commit_of(rev)
    if name is not None:
        check_name(name)
    return versions(git, commit, "--", *([f"{ADAPTERS}/{name}"] if name else []))


def versions(git: Git, *words: str) -> list[Version]:
    """The commits that `git log` lists for some words."""
    git.secure()
    out = git.run("log", "-z", f"--format={'%x1f'.join(_FIELDS)}", *words).decode("utf-8", "replace")
    rows = [line.split("\x1f") for line in out.split("\0") if line]
    return [
        Version(
            commit, date, _plain(author), _plain(" ".join(rest[:-1])), _SIGNATURES.get(rest[-1], rest[-1])
        )
        for commit, date, author, *rest in rows
    ]


def _plain(text: str) -> str:
    """Text that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def tags(git: Git) -> dict[str, str]:
    """Every annotated tag and its signature, as `Version.signature` has it."""
    git.secure()
    fields = "%(refname:strip=2)%00%(objecttype)%00%(contents:signature)%01"
    out = git.run("for-each-ref", f"--format={fields}", "refs/tags").decode("utf-8", "replace")
    states = {}
    for row in out.split("\x01"):
        name, _, rest = row.lstrip("\n").partition("\0")
        kind, _, signature = rest.partition("\0")
        if kind == "tag":
            states[name] = _tag_state(git, name) if signature.strip() else "none"
    return states


def _tag_state(git: Git, name: str) -> str:
    # The exit status does not tell a bad signature from a missing key.
    said = git.ask("verify-tag", "--raw", "--", name)
    if "GOODSIG" in said or 'Good "git" signature' in said:
        return "good"
    return "bad" if "BADSIG" in said or "incorrect signature" in said.lower() else "cannot be checked"
