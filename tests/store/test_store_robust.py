"""Many at once, killed in between, and a disk that is full."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_kit import contents, git, is_clean, key, lora, tensor, write_folder

from weft.errors import SaveError, WeftError
from weft.store import GitError, Store

LOOP = str(Path(__file__).with_name("store_loop.py"))
CONTRIBUTORS = int(os.environ.get("WEFT_STORE_CONTRIBUTORS", "6"))
PUSHES = int(os.environ.get("WEFT_STORE_PUSHES", "3"))
KILLS = int(os.environ.get("WEFT_STORE_KILLS", "12"))


def start(*words: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, LOOP, *map(str, words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,  # pyright: ignore[reportArgumentType, reportCallIssue]
    )


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=150)
        assert process.returncode == 0, said


def test_contributors_to_one_bare_repository(root: Path, tmp_path: Path) -> None:
    """Half of them have an adapter each, the others edit layers of one adapter, each its own."""
    layers = CONTRIBUTORS
    with Store(root) as store:
        store.add(write_folder(tmp_path / "start", lora(layers=layers)), "shared", message="start")
    git(tmp_path, "clone", "-q", "--bare", str(root), "hub")
    processes, final = [], lora(layers=layers)
    for who in range(CONTRIBUTORS):
        clone = tmp_path / f"clone-{who}"
        git(tmp_path, "clone", "-q", str(tmp_path / "hub"), clone.name)
        own, folders = who % 2 == 0, []
        for push in range(PUSHES):
            value = tensor(10 * who + push, 2, 4)
            tensors = lora(push + who) if own else lora(layers=layers) | {key(who): value}
            folders.append(write_folder(tmp_path / f"in-{who}-{push}", tensors))
            if not own:
                final[key(who)] = value
        processes.append((who, own, folders, clone))
    # Those who share push once, on the start's other layers: a rebase merges them tensor by tensor.
    running = [
        start("contribute", clone, f"own-{who}" if own else "shared", *(folders if own else folders[-1:]))
        for who, own, folders, clone in processes
    ]
    finish(running)
    with Store(tmp_path / "hub") as store:
        found = store.verify()
        assert found.problems == ()
        store.checkout("shared", tmp_path / "out")
        expected = write_folder(tmp_path / "expected", final)
        assert contents(tmp_path / "out") == contents(expected)
        pushed = {row.message for row in store.log()}
        for who, own, folders, _ in processes:
            if own:
                assert {f"clone-{who} {push}" for push in range(PUSHES)} <= pushed
                store.checkout(f"own-{who}", tmp_path / "out")
                assert contents(tmp_path / "out") == contents(folders[-1])
            else:
                assert f"clone-{who} 0" in pushed


@pytest.mark.parametrize("bare", [False, True])
def test_many_add_to_one_repository(bare: bool, root: Path, folder: Path, tmp_path: Path) -> None:
    if bare:
        git(tmp_path, "clone", "-q", "--bare", str(root), "bare")
        root = tmp_path / "bare"
    finish([start("add", root, 3, f"by{who}", folder) for who in range(4)])
    with Store(root) as store:
        assert len(store.list()) == 12
        assert len(store.log()) == 13
        assert store.verify().problems == ()
    if not bare:
        assert is_clean(root)


def test_another_committer_in_between_loses_nothing(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain git knows nothing of the lock; the compare and swap of HEAD notices it."""
    from weft.store import edit

    once = iter([True])
    moved = edit._moved

    def slowly(*words: object) -> bool:
        if next(once, False):
            git(root, "commit", "-q", "--allow-empty", "-m", "in between")
        return moved(*words)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(edit, "_moved", slowly)
    with Store(root) as store:
        store.add(folder, "a", message="a")
        # The change was staged by then, so plain git's commit has taken it along; nothing is left to add.
        assert [row.name for row in store.list()] == ["a"]
        assert "in between" in {row.message for row in store.log()}
        assert store.verify().problems == ()
    assert is_clean(root)


@pytest.mark.parametrize("whole_group", [False, True])
def test_killed_at_any_moment(whole_group: bool, root: Path, tmp_path: Path) -> None:
    """The history verifies and the folder is one version or the other, whole."""
    one = write_folder(tmp_path / "1", lora(1, layers=60, width=64))
    two = write_folder(tmp_path / "2", lora(2, layers=60, width=64))
    out = tmp_path / "out"
    chance = random.Random(int(whole_group))
    for _ in range((KILLS + 1) // 2):
        process = start("loop", root, out, one, two)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n", process.communicate()[1]
        time.sleep(chance.uniform(0, 0.3))
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()  # git, where it still runs, holds the pipes until it is done
        if whole_group:
            # What git leaves behind when git is killed, and how its own message says to go on.
            for lock in (root / ".git").rglob("*.lock"):
                lock.unlink()
            git(root, "reset", "-q", "--hard")
            git(root, "clean", "-qfd")
        if out.exists():
            assert contents(out) in (contents(one), contents(two))
        with Store(root) as store:
            assert store.verify().problems == ()
            store.add(one, "b", message="after")
            store.remove("b", message="after")
            if any(row.name == "a" for row in store.list()):
                store.checkout("a", tmp_path / "checked")
                assert contents(tmp_path / "checked") in (contents(one), contents(two))


def limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("layers", [20, 120])
def test_a_full_disk_in_add(layers: int, root: Path, tmp_path: Path) -> None:
    big = write_folder(tmp_path / "big", lora(layers=layers, width=600))
    head = git(root, "rev-parse", "HEAD")
    process = start("add", root, 1, "x", big, preexec_fn=lambda: limited(20_000))
    _, said = process.communicate(timeout=150)
    assert process.returncode == 1
    last = said.strip().splitlines()[-1]
    assert "weft.errors.SaveError: could not write" in last
    assert git(root, "rev-parse", "HEAD") == head
    assert is_clean(root)
    assert not list((root / ".git/objects/pack").glob("tmp_*"))
    with Store(root) as store:
        assert store.verify().problems == ()
        store.add(big, "x", message="now it fits")


def test_a_full_disk_in_checkout(
    root: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_folder(tmp_path / "out", lora(5))
    before = contents(out)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with Store(root) as store:
        store.add(folder, "a", message="x")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(SaveError, match="No space left on device"):
            store.checkout("a", out)
    assert contents(out) == before
    assert [path.name for path in tmp_path.glob(".out*")] == []


def test_a_lock_that_git_left_is_named(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.store import edit

    monkeypatch.setattr(edit, "_PATIENCE", 0.05)
    (root / ".git/index.lock").touch()
    head = git(root, "rev-parse", "HEAD")
    with Store(root) as store:
        with pytest.raises(GitError, match=r"index\.lock"):
            store.add(folder, "a", message="x")
        assert git(root, "rev-parse", "HEAD") == head
        (root / ".git/index.lock").unlink()
        store.add(folder, "a", message="x")
    assert is_clean(root)


def test_errors_are_one_line(
    tmp_path: Path, folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeftError, match="is in no git repository") as found:
        Store(tmp_path)
    assert "\n" not in str(found.value)
    with pytest.raises(WeftError, match="no folder at"):
        Store(tmp_path / "nothing")
    (tmp_path / "plain").mkdir()
    git(tmp_path / "plain", "init", "-q")
    with Store(tmp_path / "plain") as store, pytest.raises(WeftError, match="no revision 'HEAD'"):
        store.list()
    git(tmp_path / "plain", "commit", "-q", "--allow-empty", "-m", "x")
    with Store(tmp_path / "plain") as store:
        for call in (store.list, store.verify, lambda: store.add(folder, "a", message="x")):
            with pytest.raises(WeftError, match="weft store init"):
                call()
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    git(root, "config", "user.useConfigOnly", "true")
    with Store(root) as store, pytest.raises(WeftError, match="who you are"):
        store.add(folder, "a", message="x")
    assert is_clean(root)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeftError, match="git is not installed"):
        Store(root)
