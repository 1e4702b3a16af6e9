"""A repository's own configuration runs nothing and changes no output."""

import shlex
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from store_kit import contents, git, is_clean, lora, write_folder

from weft.errors import ConfigError, MissingFileError
from weft.store import Store
from weft.store.git import Git
from weft.store.settings import read_settings


@pytest.fixture
def evil(tmp_path: Path) -> str:
    """A program that tells that it was run."""
    program = tmp_path / "evil"
    program.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path))}/ran\nexit 1\n')
    program.chmod(0o755)
    return str(program)


# Where git has no such key yet, to set it is harmless.
LOCAL = {
    "signing by ssh": {"commit.gpgSign": "true", "gpg.format": "ssh", "gpg.ssh.defaultKeyCommand": "EVIL"},
    "ssh's program": {"commit.gpgSign": "true", "gpg.format": "ssh", "gpg.ssh.program": "EVIL",
                      "user.signingKey": "key::ssh-ed25519 AAAA"},
    "gpg": {"commit.gpgSign": "true", "gpg.program": "EVIL", "user.signingKey": "me"},
    "openpgp": {"commit.gpgSign": "true", "gpg.openpgp.program": "EVIL", "user.signingKey": "me"},
    "x509": {"commit.gpgSign": "true", "gpg.format": "x509", "gpg.x509.program": "EVIL"},
    "shown signatures": {"log.showSignature": "true", "gpg.program": "EVIL"},
    "hooks and monitors": {"core.fsmonitor": "EVIL", "core.hooksPath": ".", "core.editor": "EVIL",
                           "core.pager": "EVIL", "pager.log": "EVIL", "gc.recentObjectsHook": "EVIL",
                           "core.alternateRefsCommand": "EVIL"},
    "filters": {"filter.a=b.clean": "EVIL", "filter.a=b.smudge": "EVIL", "filter.a=b.required": "true",
                "filter.x.process": "EVIL"},
}  # fmt: skip


@pytest.mark.parametrize("settings", LOCAL.values(), ids=LOCAL)
def test_no_command_of_the_repository_is_run(
    settings: dict[str, str], root: Path, folder: Path, tmp_path: Path, evil: str
) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="a")
        git(root, "switch", "-qc", "topic")
        store.add(write_folder(tmp_path / "b", lora(3)), "b", message="b")
        git(root, "switch", "-q", "main")
        store.add(write_folder(tmp_path / "c", lora(5)), "c", message="c")
    (root / "pre-commit").write_text(f"#!/bin/sh\n{evil}\n")
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/attributes").write_text("adapters/** filter=a=b\n*.json filter=x\n")
    for key, value in settings.items():
        # Not by `git config`: a key may hold a `=`.
        section, _, name = key.partition(".")
        inner, _, name = name.rpartition(".")
        head = f'[{section} "{inner}"]' if inner else f"[{section}]"
        with (root / ".git/config").open("a") as file:
            file.write(f"{head}\n\t{name} = {value.replace('EVIL', evil)}\n")
    with Store(root) as store:
        for call in (
            lambda: store.add(write_folder(tmp_path / "d", lora(9)), "a", message="again"),
            lambda: store.merge("topic"),
            lambda: store.remove("a", message="gone"),
            store.log,
            store.verify,
            lambda: store.checkout("c", tmp_path / "out"),
        ):
            # There is no key to sign with.
            with suppress(OSError) if "commit.gpgSign" in settings else nullcontext():
                call()
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_no_command_of_a_partial_clone_is_run(root: Path, tmp_path: Path, folder: Path, evil: str) -> None:
    """Fetching what is missing, by us or by git as it reads, runs what a remote is reached with."""
    with Store(root) as store:
        store.add(folder, "a", message="a")
        store.add(write_folder(tmp_path / "c", lora(7)), "a", message="c")
        store.add(write_folder(tmp_path / "b", lora(4)), "a", message="b")
    git(root, "config", "uploadpack.allowFilter", "true")
    git(root, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{root}", "partial")
    clone = tmp_path / "partial"
    git(clone, "config", "remote.origin.uploadpack", evil)
    with Store(clone) as store, pytest.raises(ConfigError, match=r"--unset remote\.origin\.uploadpack"):
        store.list()
    git(clone, "config", "--unset", "remote.origin.uploadpack")
    for key in ("core.sshCommand", "core.askPass", "credential.helper",
                "credential.https://example.org.helper", "core.gitProxy"):  # fmt: skip
        git(clone, "config", key, evil)
    with Store(clone) as store:
        store.list()
        store.checkout("a", tmp_path / "out")
        store.show("a", rev="HEAD~1")
        store.verify()
    assert contents(tmp_path / "out") == contents(tmp_path / "b")
    git(clone, "config", "remote.origin.url", "ssh://localhost:1/x")
    with Store(clone) as store, pytest.raises(OSError, match="git"):
        store.checkout("a", tmp_path / "out", rev="HEAD~2")
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_what_the_user_has_chosen_stays() -> None:
    listed = (
        b"global\0gpg.program\nmine\0global\0credential.helper\nmine\0local\0credential.helper\ntheirs\0"
        b"local\0gpg.program\ntheirs\0local\0gpg.ssh.program\ntheirs\0local\0remote.o.url\nx\0"
        b"global\0core.sshcommand\nssh -i key\0local\0commit.gpgsign\nfalse\0"
    )
    found = read_settings(listed, {"GIT_CONFIG_COUNT": "2"})
    made = found.environment
    count = int(made["GIT_CONFIG_COUNT"])
    pairs = [(made[f"GIT_CONFIG_KEY_{n}"], made[f"GIT_CONFIG_VALUE_{n}"]) for n in range(2, count)]
    assert pairs == [
        ("gpg.program", "mine"),
        ("gpg.ssh.program", "ssh-keygen"),
        ("credential.helper", ""),
        ("credential.helper", "mine"),
    ]
    assert not found.signs


@pytest.mark.parametrize(
    "settings",
    [
        {"i18n.logOutputEncoding": "utf-16"},
        {"i18n.commitEncoding": "latin1", "i18n.logOutputEncoding": "latin1"},
        {"log.showSignature": "true"},
        {"core.bigFileThreshold": "1"},
        {"color.ui": "always", "log.decorate": "full", "log.follow": "true", "log.date": "relative"},
        {
            "core.quotePath": "false",
            "log.mailmap": "true",
            "format.pretty": "oneline",
            "log.diffMerges": "on",
        },
    ],
)
def test_output_is_the_same_whatever_is_set(
    settings: dict[str, str], root: Path, folder: Path, tmp_path: Path
) -> None:
    message = "Ünïcode \x1f and 漢字"
    with Store(root) as store:
        for name, value in settings.items():
            git(root, "config", name, value)
        store.add(folder, "a", message=message)
        git(root, "-c", "i18n.commitEncoding=latin1", "commit", "-q", "--allow-empty", "-m", "gr\u00fcn")
        git(root, "tag", "-a", "-m", "Ü", "v1")
        rows = store.log("a")
        assert [(row.author, row.message, row.signature) for row in rows] == [
            ("Ada", message.replace("\x1f", "\\x1f"), "none")
        ]
        assert len(store.log()) == 3
        found = store.verify()
        assert (found.problems, found.tags, found.commits) == ((), {"v1": "none"}, 3)
    assert git(root, "-c", "i18n.logOutputEncoding=UTF-8", "log", "-1", "--format=%s", "HEAD~1") == message


def test_a_working_folder_that_is_gone_is_named(tmp_path: Path, folder: Path) -> None:
    with Store.init(tmp_path / "store") as store:
        store.add(folder, "a", message="a")
    git(tmp_path / "store", "config", "core.worktree", str(tmp_path / "gone"))
    gone = pytest.raises(MissingFileError, match=r"no folder .*gone, where git should work")
    with gone, Store(tmp_path / "store") as store:
        store.verify()


def test_a_folder_with_a_newline_in_its_name(tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "two\nlines\n"
    with Store.init(place / "store\n") as store:
        store.add(folder, "a", message="a")
        assert store.root == place / "store\n"
        assert store.verify().problems == ()
        store.checkout("a", place / "out")
        assert contents(place / "out") == contents(folder)
    assert is_clean(place / "store\n")
    git(place, "clone", "-q", "--bare", "store\n", "bare\n")
    git(place / "store\n", "worktree", "add", "-q", "-b", "topic", str(place / "tree\n"))
    for where in ("bare\n", "tree\n", "store\n/adapters/a"):
        with Git(place / where) as opened:
            assert opened.commit_of("main")
    with Store(place / "tree\n") as store:
        store.add(write_folder(tmp_path / "b", lora(2)), "b", message="b")
    assert is_clean(place / "tree\n")
