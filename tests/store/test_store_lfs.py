"""Beside git-lfs: what its prune leaves, and its folder as the second place."""

import subprocess
from pathlib import Path

import pytest
from store_kit import contents, git, lora, write_folder

from weft.errors import AdapterFormatError
from weft.store import Store

pytestmark = pytest.mark.skipif(
    subprocess.run(["git", "lfs", "version"], capture_output=True).returncode != 0,
    reason="git-lfs is not installed",
)


@pytest.fixture
def remote(tmp_path: Path) -> str:
    git(tmp_path, "init", "-q", "--bare", "--initial-branch=main", "remote")
    return f"file://{tmp_path}/remote"


def fill(root: Path, remote: str, tmp_path: Path) -> None:
    """Two versions of one adapter, both pushed, in a repository with git-lfs's hooks."""
    git(root, "lfs", "install", "--local")
    git(root, "remote", "add", "origin", remote)
    with Store(root) as store:
        for at in (1, 2):
            store.add(write_folder(tmp_path / f"in{at}", lora(at), {"n": str(at)}), "a", message=f"{at}")


def check(root: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        assert store.verify().problems == ()
        for at, rev in ((1, "HEAD~1"), (2, "HEAD")):
            store.checkout("a", tmp_path / "out", rev=rev)
            assert contents(tmp_path / "out") == contents(tmp_path / f"in{at}")


@pytest.mark.parametrize("apart", [False, True])
def test_prune_deletes_nothing_of_ours(apart: bool, tmp_path: Path, remote: str) -> None:
    root, blobs = tmp_path / "store", tmp_path / "blobs"
    Store.init(root, blobs=blobs if apart else None, blobs_over=100).close()
    fill(root, remote, tmp_path)
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/attributes").write_text("*.bin filter=lfs\n")
    (root / "its.bin").write_bytes(b"a file of git-lfs")
    git(root, "add", "its.bin")
    git(root, "commit", "-qm", "its")
    # Its hook takes our pointers for its own and misses their bytes.
    git(root, "-c", "lfs.allowincompletepush=true", "push", "-q", "origin", "main")
    its = root / ".git/lfs/objects"
    assert len([path for path in its.rglob("*") if path.is_file()]) == 1
    git(root, "lfs", "prune", "--force")
    assert not [path for path in its.rglob("*") if path.is_file()]
    git(root, "reset", "-q", "--hard", "HEAD~1")
    assert len([path for path in blobs.rglob("*") if path.is_file()]) == (12 if apart else 0)
    check(root, tmp_path)


def test_its_folder_is_a_second_place(tmp_path: Path, remote: str) -> None:
    """Plain `git push` carries the tensors then, and what it prunes comes back."""
    root = tmp_path / "store"
    Store.init(root, blobs=root / ".git/lfs/objects", blobs_over=0).close()
    fill(root, remote, tmp_path)
    git(root, "push", "-q", "origin", "main")
    git(root, "lfs", "fsck")
    git(root, "lfs", "prune", "--force")
    with Store(root) as store, pytest.raises(AdapterFormatError, match="is missing in"):
        store.checkout("a", tmp_path / "out")
    git(root, "lfs", "fetch", "--all")
    check(root, tmp_path)
    git(tmp_path, "clone", "-q", "--no-checkout", remote, "clone")
    git(tmp_path / "clone", "lfs", "fetch", "--all")
    git(tmp_path / "clone", "config", "weft.blobs", str(tmp_path / "clone/.git/lfs/objects"))
    check(tmp_path / "clone", tmp_path)
