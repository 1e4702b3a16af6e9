"""A folder takes another one's place whole, wherever the process is killed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from weft import files
from weft.errors import SaveError
from weft.files import folders_with, remove_leftovers, replace_folder


def write(target: Path, text: str) -> None:
    with replace_folder(target) as fresh:
        (fresh / "one").write_text(text)
        (fresh / "two").write_text(text)


def read(target: Path) -> list[str]:
    return [(target / name).read_text() for name in ("one", "two")]


def killed(call: Callable[[], object]) -> None:
    """Run a call in a process that ends as a kill ends it, with no clean-up, where `die` is called."""
    child = os.fork()
    if child == 0:
        try:
            call()
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def die(*_: object) -> None:
    os._exit(9)


def no_exchange(fresh: Path, target: Path) -> bool:
    return False


@pytest.mark.parametrize("exchange", [True, False])
def test_nothing_is_left_beside(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", no_exchange)
    for text in ("a", "b"):
        write(tmp_path / "x", text)
        assert read(tmp_path / "x") == [text, text]
        assert os.listdir(tmp_path) == ["x"]
    (tmp_path / "link").symlink_to("x")
    write(tmp_path / "link", "c")
    assert (read(tmp_path / "link"), read(tmp_path / "x")) == (["c", "c"], ["b", "b"])
    assert sorted(os.listdir(tmp_path)) == ["link", "x"]


def test_one_step_where_the_system_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right after the exchange: the new folder is there, whole; killed before, the old one is."""
    write(tmp_path / "x", "old")
    place = tmp_path / "probe"
    place.mkdir()
    if not files._exchanged(place, tmp_path / "x"):
        pytest.skip("no renameat2 here")
    assert read(place) == ["old", "old"]
    assert files._exchanged(place, tmp_path / "x")
    for step, whole in (("_exchanged", "old"), ("_remove", "new")):
        monkeypatch.setattr(files, step, die)
        killed(lambda: write(tmp_path / "x", "new"))
        monkeypatch.undo()
        assert read(tmp_path / "x") == [whole, whole]


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x", "old")

    def refuse(file: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_sync", refuse)
    with pytest.raises(SaveError, match="No space left"):
        write(tmp_path / "x", "new")
    assert read(tmp_path / "x") == ["old", "old"]
    assert os.listdir(tmp_path) == ["x"]


def test_what_a_kill_left_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old folder comes back where the kill came between two renames, on systems without an exchange."""
    write(tmp_path / "x", "old")
    (tmp_path / ".keep.me").mkdir()
    monkeypatch.setattr(files, "_exchanged", die)
    killed(lambda: write(tmp_path / "x", "new"))
    assert len(folders_with(tmp_path, "one")) == 1
    assert len(os.listdir(tmp_path)) == 3
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".keep.me", "x"]

    monkeypatch.setattr(files, "_exchanged", no_exchange)
    renames = iter([os.rename, die])
    monkeypatch.setattr(os, "rename", lambda *paths: next(renames)(*paths))
    killed(lambda: write(tmp_path / "x", "new"))
    monkeypatch.undo()
    assert not (tmp_path / "x").exists()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path)
    assert read(tmp_path / "x") == ["old", "old"]
    assert sorted(os.listdir(tmp_path)) == [".keep.me", "x"]
    remove_leftovers(tmp_path / "nowhere")
