"""The versions of a store or of one adapter, and who signed them."""

import re
from typing import NamedTuple

from weft.plain import plain
from weft.store.git import Git
from weft.store.layout import ADAPTERS, check_name

_UNTRUSTED = "good, key not trusted"
_SIGNATURES = {
    "G": "good",
    "U": _UNTRUSTED,
    "X": "good, expired",
    "Y": "good, key expired",
    "R": "good, key revoked",
    "B": "bad",
    "E": "cannot be checked",
    "N": "none",
}
_TAGS = {
    "BADSIG": "bad",
    "EXPSIG": _SIGNATURES["X"],
    "EXPKEYSIG": _SIGNATURES["Y"],
    "REVKEYSIG": _SIGNATURES["R"],
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
    # No text of git's holds a NUL.
    out = git.run("log", "-z", "--encoding=UTF-8", f"--format={'%x00'.join(_FIELDS)}", *words)
    fields = [plain(field) for field in out.decode("utf-8", "replace").split("\0")]
    rows = zip(*[iter(fields)] * len(_FIELDS), strict=False)
    return [
        Version(commit, date, author, message, _SIGNATURES.get(state) or state)
        for commit, date, author, message, state in rows
    ]


def tags(git: Git) -> dict[str, str]:
    """Every annotated tag and its signature, as `Version.signature` has it."""
    git.secure()
    fields = "%(refname:strip=2)%00%(objecttype)%00%(contents:signature)%00"
    out = git.run("for-each-ref", f"--format={fields}", "refs/tags").decode("utf-8", "surrogateescape")
    rows = zip(*[iter(out.split("\0"))] * 3, strict=False)
    return {
        plain(name): _tag_state(git, name) if signature else "none"
        for name, kind, signature in ((name.removeprefix("\n"), kind, told) for name, kind, told in rows)
        if kind == "tag"
    }


def _tag_state(git: Git, name: str) -> str:
    # The exit status does not tell a bad signature from a missing key. GnuPG's words begin lines of their
    # own. Of SSH, git says for whom a signature is good, or only with which key.
    said = git.ask("verify-tag", "--raw", "--", name)
    words = set(re.findall(r"^\[GNUPG:\] (\w+)", said, re.MULTILINE))
    for word, state in _TAGS.items():
        if word in words:
            return state
    if "GOODSIG" in words:
        return _UNTRUSTED if words & {"TRUST_UNDEFINED", "TRUST_NEVER"} else "good"
    if "incorrect signature" in said.lower():
        return "bad"
    told = re.search('^Good "git" signature (for|with) ', said, re.MULTILINE)
    return "cannot be checked" if told is None else "good" if told[1] == "for" else _UNTRUSTED
