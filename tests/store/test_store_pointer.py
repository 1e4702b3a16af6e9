"""Large tensors in a folder beside git come and go to the byte; no other bytes are taken for them."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from store_kit import commit_tree, contents, git, is_clean, key, lora, tensor, write_folder

from weft.checks import MAX_TENSOR
from weft.cli import app
from weft.errors import AdapterFormatError, ConfigError, SaveError, WeftError
from weft.store import Store
from weft.store.layout import file_of
from weft.store.pointer import get, parse_pointer, pointer_bytes, pointer_to, put

VERSION = "version https://git-lfs.github.com/spec/v1\n"
SHA = "0123456789abcdef" * 4
WIDE = {key(7): tensor(3, 2, 500), key(7, "B"): tensor(4, 4, 2)}
PLACE = ("adapters", "a", "tensors", file_of(key(7)))


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def apart(tmp_path: Path, blobs: Path) -> Path:
    """A store whose tensors of more than 1000 bytes lie apart, with one version of `a`."""
    with Store.init(tmp_path / "apart", blobs=blobs, blobs_over=1000) as store:
        store.add(write_folder(tmp_path / "in", lora() | WIDE, {"format": "pt"}), "a", message="first")
    return tmp_path / "apart"


def kept(blobs: Path) -> list[Path]:
    return sorted(path for path in blobs.rglob("*") if path.is_file())


def test_large_tensors_lie_apart(apart: Path, blobs: Path, tmp_path: Path) -> None:
    (one,) = kept(blobs)
    data = one.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    assert one.relative_to(blobs) == Path(sha256[:2], sha256[2:4], sha256)
    assert git(apart, "show", f"HEAD:{'/'.join(PLACE)}") == f"{VERSION}oid sha256:{sha256}\nsize {len(data)}"
    assert json.loads((apart / "weft-store.json").read_text())["blobs_over"] == 1000
    assert is_clean(apart)
    with Store(apart) as store:
        store.checkout("a", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(tmp_path / "in")
        assert store.verify().problems == ()
        assert store.verify().tensors == 8
        # The same again is no change; another large tensor is one, and shows in the diff by its name.
        assert store.add(tmp_path / "in", "a", message="again").commit is None
        changed = write_folder(
            tmp_path / "in2", lora() | WIDE | {key(7): tensor(4, 2, 500)}, {"format": "pt"}
        )
        assert store.add(changed, "a", message="second").written == 1
        assert [row.what for row in store.diff("HEAD~1", "HEAD")] == [key(7)]
        assert len(kept(blobs)) == 2
        store.checkout("a", tmp_path / "out", rev="HEAD~1")
        assert contents(tmp_path / "out") == contents(tmp_path / "in")
        assert store.export("a", tmp_path / "hub") is True


def test_a_clone_names_its_own_place(apart: Path, blobs: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(apart), "clone")
    with Store(tmp_path / "clone") as store:
        for call in (
            lambda: store.checkout("a", tmp_path / "out"),
            lambda: store.add(tmp_path / "in", "b", message="x"),
        ):
            with pytest.raises(ConfigError, match="name it with `git config"):
                call()
        assert "second place" in store.verify().problems[0]
        git(store.root, "config", "weft.blobs", "blobs")
        with pytest.raises(ConfigError, match="absolute"):
            store.checkout("a", tmp_path / "out")
        git(store.root, "config", "weft.blobs", str(blobs))
        store.checkout("a", tmp_path / "out")
        store.add(tmp_path / "in", "b", message="x")
        assert store.verify().problems == ()
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    assert len(kept(blobs)) == 1


def damage(one: Path) -> None:
    one.chmod(0o644)
    one.write_bytes(b"x" + one.read_bytes()[1:])


def cut(one: Path) -> None:
    one.chmod(0o644)
    one.write_bytes(one.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "says"), [(Path.unlink, "is missing"), (damage, "is damaged"), (cut, "is damaged")]
)
def test_what_is_not_whole_is_named(
    harm: Callable[[Path], None], says: str, apart: Path, blobs: Path, tmp_path: Path
) -> None:
    (one,) = kept(blobs)
    harm(one)
    out = write_folder(tmp_path / "out", lora(5))
    before = contents(out)
    with Store(apart) as store:
        with pytest.raises(AdapterFormatError, match=f"{key(7)}: sha256 {one.name} {says}") as found:
            store.checkout("a", out)
        assert "\n" not in str(found.value)
        assert contents(out) == before
        (problem,) = store.verify().problems
        assert f"{key(7)}: sha256 {one.name} {says}" in problem
        # Whoever adds the tensor again heals the folder.
        store.add(tmp_path / "in", "b", message="x")
        assert store.verify().problems == ()


@pytest.mark.parametrize(
    "text",
    [
        f"oid sha256:{SHA}\n",
        f"oid sha256:{SHA}\nsize -1\n",
        f"oid sha256:{SHA}\nsize 01\n",
        f"oid sha256:{SHA}\nsize 1e3\n",
        f"oid sha256:{SHA}\nsize {10**18}\n",
        f"oid sha256:{SHA}\nsize {MAX_TENSOR + 1}\n",
        f"oid sha256:{SHA}\nsize 5",
        f"oid sha256:{SHA}\nsize 5\r\n",
        f"oid sha256:{SHA}\nsize 5\nsize 5\n",
        f"ext-0-evil sha256:{SHA}\noid sha256:{SHA}\nsize 5\n",
        f"oid sha256:{SHA[1:]}\nsize 5\n",
        f"oid sha256:{SHA.upper()}\nsize 5\n",
        f"oid sha256:../../{SHA[6:]}\nsize 5\n",
        f"oid sha256:/{SHA[1:]}\nsize 5\n",
        f"oid md5:{SHA[:32]}\nsize 5\n",
        "x" * 5000,
    ],
)
def test_hostile_pointers(text: str, apart: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match=r"pointer|points to") as found:
        parse_pointer((VERSION + text).encode(), "x")
    assert len(str(found.value)) < 200
    commit_tree(apart, {PLACE: (VERSION + text).encode()})
    with Store(apart) as store:
        with pytest.raises(AdapterFormatError, match=r"pointer|points to"):
            store.checkout("a", tmp_path / "out")
        assert len(store.verify().problems) == 1
        store.checkout("a", tmp_path / "out", rev="HEAD~1")


def test_a_pointer_to_what_is_no_tensor(apart: Path, blobs: Path, tmp_path: Path) -> None:
    for data, says in ((b"\x80\x04 a pickle", "no safetensors file"), (b"", "no safetensors file")):
        commit_tree(apart, {PLACE: pointer_bytes(put(blobs, data))})
        with Store(apart) as store, pytest.raises(AdapterFormatError, match=says):
            store.checkout("a", tmp_path / "out")
    # A pointer to a pointer is not followed.
    commit_tree(apart, {PLACE: pointer_bytes(put(blobs, pointer_bytes(pointer_to(b"x"))))})
    with Store(apart) as store, pytest.raises(AdapterFormatError, match="git-lfs pointer"):
        store.checkout("a", tmp_path / "out")


def test_the_place_is_never_told_by_content(apart: Path, tmp_path: Path) -> None:
    for value, says in (
        ({"blobs": "/tmp"}, "unknown key"),
        ({"blobs_over": -1}, "bytes"),
        ({"blobs_over": True}, "bytes"),
    ):
        commit_tree(apart, {("weft-store.json",): json.dumps({"format": 1, "base": None, **value}).encode()})
        with Store(apart) as store, pytest.raises(AdapterFormatError, match=says):
            store.checkout("a", tmp_path / "out")


def test_a_folder_that_cannot_be_written(apart: Path, blobs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    git(apart, "config", "weft.blobs", str(tmp_path / "file"))
    head = git(apart, "rev-parse", "HEAD")
    with Store(apart) as store:
        with pytest.raises(SaveError, match="could not write"):
            store.add(tmp_path / "in", "b", message="x")
        with pytest.raises(AdapterFormatError, match="cannot be read"):
            store.checkout("a", tmp_path / "out")
    assert git(apart, "rev-parse", "HEAD") == head
    assert is_clean(apart)


def test_put_and_get(tmp_path: Path) -> None:
    pointer = put(tmp_path, b"some bytes")
    assert parse_pointer(pointer_bytes(pointer), "x") == pointer
    assert get(tmp_path, pointer, "x") == b"some bytes"
    (one,) = kept(tmp_path)
    assert one.stat().st_mode & 0o777 == 0o444
    before = one.stat().st_ino
    assert put(tmp_path, b"some bytes") == pointer
    assert one.stat().st_ino == before
    assert parse_pointer(b"version 1\n", "x") is None
    with pytest.raises(AdapterFormatError, match="is damaged"):
        get(tmp_path, pointer._replace(size=9), "x")


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """What was not finished has no name that anyone looks for."""
    program = f"""
import os, weft.store.pointer as p
from pathlib import Path
os.replace = lambda *_: os.kill(os.getpid(), 9)
p.put(Path({str(tmp_path)!r}), b"some bytes")
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    (aside,) = kept(tmp_path)
    assert aside.name.startswith(".")
    with pytest.raises(AdapterFormatError, match="is missing"):
        get(tmp_path, pointer_to(b"some bytes"), "x")
    put(tmp_path, b"some bytes")
    assert get(tmp_path, pointer_to(b"some bytes"), "x") == b"some bytes"


def test_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["store", "init", str(tmp_path / "s"), "--blobs", str(tmp_path / "b")]
    assert app.main([*words[:3], "--blobs-over", "5"]) == 1
    assert "name it with --blobs" in capsys.readouterr().err
    assert app.main([*words, "--blobs-over", "-5"]) == 1
    assert not (tmp_path / "s").exists()
    assert app.main(words) == 0
    assert json.loads((tmp_path / "s/weft-store.json").read_text())["blobs_over"] == 1 << 20
    assert git(tmp_path / "s", "config", "weft.blobs") == str(tmp_path / "b")
    with Store(tmp_path / "s") as store:
        assert store.add(write_folder(tmp_path / "in", lora()), "a", message="small").tensors == 6
    assert not (tmp_path / "b").exists()
    assert isinstance(ConfigError("x"), WeftError)
