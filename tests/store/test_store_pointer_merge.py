"""Everything that makes one adapter of several, where the tensors lie in the second place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from store_kit import BASES, CONFIG, contents, derive, git, is_clean, key, lora, tensor, wider, write_folder

from weft.errors import AdapterFormatError, WeftError
from weft.store import Store
from weft.store.replay import Replayed

LAYERS = 30
OVER = 100
"""Bytes: each tensor has more, with its header."""


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Branches `one` and `two` change layers of their own, and layer 0 both; main is where they began."""
    return branches(tmp_path / "apart", tmp_path / "blobs")


def branches(root: Path, blobs: Path | None) -> Path:
    with Store.init(root, base=BASES[0], blobs=blobs, blobs_over=OVER) as store:
        for name, seed in (("main", 0), ("one", 1), ("two", 2)):
            if seed:
                git(root, "checkout", "-q", "-b", name, "main")
            store.add(write_folder(root.parent / f"in-{name}", side(seed)), "a", message=name)
        git(root, "checkout", "-q", "main")
    return root


def side(seed: int) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    own = {key(layer): tensor(layer + 7 * seed, 2, 4) for layer in range(10 * seed, 10 * seed + 9)}
    return lora(layers=LAYERS) | (own | {key(0): tensor(50 + seed, 2, 4)} if seed else {})


def has_pointers_alone(root: Path, name: str) -> bool:
    folder = root / "adapters" / name / "tensors"
    return all(path.read_bytes().startswith(b"version https://git-lfs") for path in folder.iterdir())


def values(folder: Path) -> bytes:
    """The tensors of a folder; the header, as the card, names commits."""
    data = (folder / "adapter_model.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def kept(blobs: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in blobs.rglob("*") if path.is_file()}


@pytest.mark.parametrize("policy", ["ours", "theirs"])
def test_a_side_is_taken_without_reading_a_tensor(policy: str, apart: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").rename(tmp_path / "away")
    with Store(apart) as store:
        with pytest.raises(WeftError, match="1 conflict, nothing was merged"):
            store.merge("one", "two")
        done = store.merge("one", "two", on_conflict=policy)
        assert done.decided == (f"a: {key(0)}",)
        (tmp_path / "away").rename(tmp_path / "blobs")
        assert store.verify().problems == ()
        store.checkout("a", tmp_path / "out")
    winner = 1 if policy == "ours" else 2
    want = side(1) | side(2) | {name: side(1)[name] for name in map(key, range(10, 19))}
    want |= {key(0): side(winner)[key(0)]}
    assert contents(tmp_path / "out") == contents(write_folder(tmp_path / "want", want))
    assert has_pointers_alone(apart, "a")
    assert is_clean(apart)


@pytest.mark.parametrize("method", ["linear", "concat", "task_arithmetic"])
def test_a_method_gives_what_it_gives_in_git(method: str, apart: Path, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    plain = branches(tmp_path / "beside" / "plain", None)
    for root in (apart, plain):
        with Store(root) as store:
            store.merge("one", "two", on_conflict=method)
            assert store.verify().problems == ()
            store.checkout("a", tmp_path / f"out-{root.name}")
            blobs = kept(tmp_path / "blobs")
            assert store.replay() == Replayed(1, (), ())
            assert kept(tmp_path / "blobs") == blobs
        assert is_clean(root)
    assert values(tmp_path / "out-apart") == values(tmp_path / "out-plain") != values(tmp_path / "in-one")
    assert has_pointers_alone(apart, "a")
    assert not has_pointers_alone(plain, "a")


def grow(tmp_path: Path) -> Path:
    """Main with one more of rank."""
    return write_folder(tmp_path / "wide", wider(side(0), 1), config=json.dumps(CONFIG | {"r": 3}).encode())


def test_a_stack_and_a_rebase(apart: Path, tmp_path: Path) -> None:
    wide = grow(tmp_path)
    with Store(apart) as store:
        assert store.stack("a", wide, "wide", message="wide").written == 2 * LAYERS
        store.checkout("wide", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(wide)
        store.accept("a", base=derive)
        store.rebase("wide")
        store.checkout("wide", tmp_path / "out")
        assert contents(tmp_path / "out") != contents(wide)
        assert store.verify().problems == ()
        assert store.replay(base=derive) == Replayed(3, (), ())
    assert has_pointers_alone(apart, "wide")
    assert is_clean(apart)


Act = Callable[[Store, Path], object]
ACTS: dict[str, Act] = {
    "checkout": lambda store, place: store.checkout("a", place / "out"),
    "export": lambda store, place: store.export("a", place / "out"),
    "diff": lambda store, place: store.diff_values("one", "two"),
    "merge": lambda store, place: store.merge("one", "two", on_conflict="linear"),
    "stack": lambda store, place: store.stack("a", place / "wide", "wide", message="wide"),
    "accept": lambda store, place: store.accept("a", base=derive),
    "rebase": lambda store, place: store.rebase("b", message="never"),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("damage", ["missing", "damaged", "no folder"])
def test_a_blob_that_is_not_there(act: str, damage: str, apart: Path, tmp_path: Path) -> None:
    """One line that says what to do; nothing has changed, and with the blobs back all goes on."""
    grow(tmp_path)
    with Store(apart) as store:
        if act == "rebase":
            store.add(tmp_path / "in-main", "b", message="b")
            store.accept("a", base=derive)
    head = git(apart, "rev-parse", "HEAD")
    shutil.copytree(tmp_path / "blobs", tmp_path / "whole")
    for path in kept(tmp_path / "blobs"):
        path.chmod(0o644)
        path.unlink() if damage == "missing" else path.write_bytes(b"\0" * path.stat().st_size)
    if damage == "no folder":
        git(apart, "config", "--unset", "weft.blobs")
    with Store(apart) as store:
        with pytest.raises(WeftError) as error:
            ACTS[act](store, tmp_path)
        told = str(error.value)
        assert len(told.splitlines()) == 1
        if damage == "no folder":
            assert "name it with `git config weft.blobs FOLDER`" in told
        else:
            assert isinstance(error.value, AdapterFormatError)
            assert f"is {damage} in {tmp_path / 'blobs'}" in told
            assert "lora_" in told
            assert "sha256 " in told
        assert git(apart, "rev-parse", "HEAD") == head
        assert is_clean(apart)
        assert not (tmp_path / "out").exists()
        assert store.verify().problems
        git(apart, "config", "weft.blobs", str(tmp_path / "whole"))
        assert store.verify().problems == ()
        ACTS[act](store, tmp_path)
