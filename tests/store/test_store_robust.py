"""Many at once, and a disk that is full."""

import os
import resource
import subprocess
from pathlib import Path

import pytest
from store_kit import contents, git, is_clean, lora, run_beside, write_folder

from weft.errors import SaveError, WeftError
from weft.store import GitError, Store


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=150)
        assert process.returncode == 0, said


@pytest.mark.parametrize("bare", [False, True])
def test_many_add_to_one_repository(bare: bool, root: Path, folder: Path, tmp_path: Path) -> None:
    if bare:
        git(tmp_path, "clone", "-q", "--bare", str(root), "bare")
        root = tmp_path / "bare"
    finish([run_beside("add", root, 3, f"by{who}", folder) for who in range(4)])
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


def test_a_commit_on_no_branch_is_said(root: Path, folder: Path) -> None:
    git(root, "checkout", "-q", "--detach")
    with Store(root) as store, pytest.warns(UserWarning, match="is on no branch .* keep it by `git branch"):
        store.add(folder, "a", message="a")


def limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("layers", [20, 120])
def test_a_full_disk_in_add(layers: int, root: Path, tmp_path: Path) -> None:
    big = write_folder(tmp_path / "big", lora(layers=layers, width=600))
    head = git(root, "rev-parse", "HEAD")
    process = run_beside("add", root, 1, "x", big, preexec_fn=lambda: limited(20_000))
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
    from weft.store import turn

    monkeypatch.setattr(turn, "_PATIENCE", 0.05)
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
    with (
        Store(tmp_path / "plain") as store,
        pytest.raises(WeftError, match="no commit yet, `weft store init`"),
    ):
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
