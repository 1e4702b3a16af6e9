"""What a killed process leaves, and plain git at work in the same repository."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_kit import contents, git, is_clean, key, lora, run_beside, tensor, write_folder

from weft.errors import WeftError
from weft.store import GitError, Store

KILLS = int(os.environ.get("WEFT_STORE_KILLS", "6"))


@pytest.fixture
def half(root: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A store whose working folder is what an add killed within `read-tree` leaves; the versions before it.

    HEAD and index know `a`; the working folder has half of its next version, and half of a new adapter `b`.
    """
    old, new = lora(), lora(40)
    versions = tmp_path / "old", tmp_path / "new"
    write_folder(versions[0], old, card=b"old")
    write_folder(versions[1], new, card=b"new")
    with Store(root) as store:
        store.add(versions[0], "a", message="old")
        head = git(root, "rev-parse", "HEAD")
        store.add(versions[1], "a", message="new")
        store.add(versions[1], "b", message="b")
        whole = {path: path.read_bytes() for path in (root / "adapters").rglob("*") if path.is_file()}
        git(root, "reset", "-q", "--hard", head)
    for number, (path, data) in enumerate(sorted(whole.items())):
        if number % 2:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                data[: len(data) // 2] if number % 4 == 1 and path.suffix == ".safetensors" else data
            )
    return root, tmp_path


def test_leftovers_do_not_stand_in_the_way(half: tuple[Path, Path]) -> None:
    root, place = half
    other = write_folder(place / "other", lora(20), card=b"other")
    with Store(root) as store:
        for name in "ab":
            store.add(other, name, message=name)
            store.checkout(name, place / "out")
            assert contents(place / "out") == contents(other)
        assert store.verify().problems == ()
    assert is_clean(root)


def test_leftovers_do_not_stand_in_the_way_of_a_merge(root: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(write_folder(tmp_path / "1", lora()), "a", message="one")
        git(root, "switch", "-qc", "topic")
        store.add(write_folder(tmp_path / "2", lora() | {key(0): tensor(30, 2, 4)}), "a", message="two")
        git(root, "switch", "-q", "main")
        store.add(write_folder(tmp_path / "3", lora() | {key(1): tensor(31, 2, 4)}), "a", message="three")
        git(root, "restore", "-s", "topic", "--", f"adapters/a/tensors/{key(0)}.safetensors")
        store.merge("topic")
        assert store.verify().problems == ()
    assert is_clean(root)


@pytest.mark.parametrize("kind", ["edit", "new", "link", "folder"])
def test_work_of_ones_own_stays(kind: str, half: tuple[Path, Path]) -> None:
    root, place = half
    git(root, "reset", "-q", "--hard")
    git(root, "clean", "-qfd")
    file = root / ("adapters/b/README.md" if kind == "new" else "adapters/a/README.md")
    file.parent.mkdir(exist_ok=True)
    if kind in ("edit", "new"):
        file.write_text("my work")
    elif kind == "link":
        file.unlink()
        (place / "mine").write_bytes(b"old")
        file.symlink_to(place / "mine")
    else:
        file.unlink()
        file.mkdir()
        (file / "mine").write_bytes(b"old")
    before = git(root, "status", "--porcelain")
    with Store(root) as store:
        began = time.monotonic()
        with pytest.raises(GitError, match=r"README\.md has edits that no commit holds") as found:
            store.add(place / "new", file.parent.name, message="x")
        assert time.monotonic() - began < 1.5
        assert ("git clean" if kind == "new" else "git restore") in str(found.value)
    assert git(root, "status", "--porcelain") == before
    assert (place / "mine").read_bytes() == b"old" if kind == "link" else file.exists()


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock", "refs/heads/main.lock"])
def test_a_stale_lock_is_named_soon(lock: str, root: Path, folder: Path) -> None:
    (root / ".git" / lock).touch()
    began = time.monotonic()
    with Store(root) as store, pytest.raises(GitError, match="remove that file") as found:
        store.add(folder, "a", message="x")
    assert str(root / ".git" / lock) in str(found.value)
    assert time.monotonic() - began < 6
    (root / ".git" / lock).unlink()
    with Store(root) as store:
        store.add(folder, "a", message="x")
    assert is_clean(root)


def test_a_lock_that_passes_is_waited_for(root: Path, folder: Path) -> None:
    locks = [root / ".git" / lock for lock in ("index.lock", "HEAD.lock")]
    for lock in locks:
        lock.touch()
    words = "import os, sys, time; time.sleep(0.7); [os.unlink(x) for x in sys.argv[1:]]"
    with subprocess.Popen([sys.executable, "-c", words, *map(str, locks)]), Store(root) as store:
        assert store.add(folder, "a", message="x").commit
    assert is_clean(root)


@pytest.mark.parametrize(
    "beside",
    ["git commit -q --allow-empty -m beside", "git gc -q --prune=now", "git status", "git pack-refs --all"],
)
def test_plain_git_at_work_beside(beside: str, root: Path, tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / str(n), lora(n, layers=8)) for n in range(3)]
    if "prune" in beside:
        beside = "git gc -q"  # objects that no commit names yet are to stay, as gc's own default has it
    loop = subprocess.Popen(
        ["sh", "-c", f"while :; do {beside} >/dev/null 2>&1; done"], cwd=root, start_new_session=True
    )
    try:
        with Store(root) as store:
            for number in range(6):
                store.add(folders[number % 3], "a", message=f"{number}")
                store.remove("b", message="x") if number % 2 else store.add(folders[0], "b", message="b")
    finally:
        os.killpg(loop.pid, signal.SIGKILL)
        loop.wait()
    for lock in (root / ".git").rglob("*.lock"):
        lock.unlink()
    with Store(root) as store:
        assert store.verify().problems == ()
        store.checkout("a", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folders[2])
    assert is_clean(root)


def test_killed_with_git_and_no_reset(root: Path, tmp_path: Path) -> None:
    """After a kill and the removal of stale locks the next add works, whatever lies in the working folder."""
    folders = [write_folder(tmp_path / f"in{n}", lora(n * 7, layers=30, width=32)) for n in range(3)]
    for number in range(KILLS):
        process = run_beside("add_on", root, *folders)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1 + 0.037 * (number % 11))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for lock in (root / ".git").rglob("*.lock"):
            lock.unlink()
        with Store(root) as store:
            mine = write_folder(tmp_path / "mine", lora(number + 90, layers=30, width=32))
            store.add(mine, "a", message="after")
            assert store.verify().problems == ()
        assert is_clean(root)


def test_a_signature_that_fails_is_told_at_once(root: Path, folder: Path) -> None:
    git(root, "config", "commit.gpgsign", "true")
    git(root, "config", "gpg.format", "ssh")
    git(root, "config", "user.signingkey", str(root / "none"))
    began = time.monotonic()
    with Store(root) as store, pytest.raises(WeftError, match="commit-tree"):
        store.add(folder, "a", message="x")
    assert time.monotonic() - began < 1.5
    assert git(root, "status", "--porcelain") == ""
