"""Git's configuration, so that a repository's own part of it runs nothing.

A user's configuration may name programs: signers, helpers for passwords, ssh. What a repository's own names
is put back to what the user's says, else to git's default. Filters are off in all of them, for they change
content; what git writes is UTF-8 and holds nothing but what was asked for.
"""

from collections.abc import Mapping
from typing import NamedTuple

ALWAYS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
    "log.showSignature=false",
    "i18n.commitEncoding=UTF-8",
    "i18n.logOutputEncoding=UTF-8",
    "color.ui=false",
    "core.bigFileThreshold=512m",
)
"""What holds for every call, whatever is configured."""
_OWN = ("local", "worktree")
_OFF = (("clean", ""), ("smudge", ""), ("process", ""), ("required", "false"))
# Every key that names a program which git may run in our calls, and git's default.
_PROGRAMS = {
    "gpg.program": "gpg",
    "gpg.openpgp.program": "gpg",
    "gpg.x509.program": "gpgsm",
    "gpg.ssh.program": "ssh-keygen",
    "gpg.ssh.defaultkeycommand": "",
    "core.sshcommand": "ssh",
    "core.askpass": "",
    "core.editor": ":",
    "core.pager": "cat",
    "core.alternaterefscommand": "",
    "gc.recentobjectshook": "",
}
_REACHED_BY = (".uploadpack", ".vcs")
"""Keys of a remote that name a program, and that no later line can take back."""
_PROXY = "core.gitproxy"
_TIDYING = ("gc.auto", "gc.autopacklimit")


class Setting(NamedTuple):
    """One line of a configuration, in the order in which git reads them."""

    scope: str
    key: str
    value: str


class Settings(NamedTuple):
    """What a configuration asks of us."""

    environment: dict[str, str]
    """What makes it safe. Options of a command line would be read in another way where a name has a `=`."""
    remote_program: str | None
    """A key of the repository's own by which fetching from a remote would run a program."""
    signs: bool
    """Whether commits are to be signed."""
    tidies: bool
    """Whether someone has set limits of their own to the number of packs and loose objects."""


def read_settings(listed: bytes, environment: Mapping[str, str]) -> Settings:
    """What `git config --list --show-scope -z` prints, made safe beside what an environment says already."""
    parts = listed.decode("utf-8", "surrogateescape").split("\0")
    lines = [line.partition("\n") for line in parts[1::2]]
    found = [Setting(scope, key, value) for scope, (key, _, value) in zip(parts[::2], lines, strict=False)]
    drivers = sorted({s.key.rpartition(".")[0] for s in found if s.key.startswith("filter.")})
    safe = [(f"{driver}.{key}", value) for driver in drivers if "." in driver for key, value in _OFF]
    own = sorted({s.key for s in found if s.scope in _OWN})
    for key in own:
        if key in _PROGRAMS:
            users = [s.value for s in found if s.key == key and s.scope not in _OWN]
            safe.append((key, [_PROGRAMS[key], *users][-1]))
    if any(map(_is_helper, own)):
        safe.append(("credential.helper", ""))  # forgets all; the user's follow again
        safe += [(s.key, s.value) for s in found if _is_helper(s.key) and s.scope not in _OWN]
    count = int(environment.get("GIT_CONFIG_COUNT") or 0)
    values = {"GIT_CONFIG_COUNT": str(count + len(safe))}
    for number, (key, value) in enumerate(safe, count):
        values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    if _PROXY in own:
        values["GIT_PROXY_COMMAND"] = ""
    signs = [s.value.lower() not in ("false", "no", "off", "0") for s in found if s.key == "commit.gpgsign"]
    remotes = (key for key in own if key.startswith("remote.") and key.endswith(_REACHED_BY))
    return Settings(values, next(remotes, None), signs[-1:] == [True], any(s.key in _TIDYING for s in found))


def _is_helper(key: str) -> bool:
    return key.startswith("credential.") and key.endswith(".helper")
