"""A folder or a file takes another one's place whole, wherever the process is killed."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from weft import files
from weft.errors import MissingFileError, SaveError
from weft.files import check_free, folders_with, remove_leftovers, replace_file, replace_folder


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
        remove_leftovers(tmp_path)


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


def test_a_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in ("x", "new"):
        (tmp_path / f"{name}.link").symlink_to(f"far/{name}")
    write(tmp_path / "far/x", "a")
    write(tmp_path / "x.link", "b")
    write(tmp_path / "new.link", "c")
    assert (read(tmp_path / "far/x"), read(tmp_path / "far/new")) == (["b", "b"], ["c", "c"])
    (tmp_path / "file.link").symlink_to("far/file")
    for text in ("d", "e"):
        replace_file(tmp_path / "file.link", text)
        assert (tmp_path / "far/file").read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["far", "file.link", "new.link", "x.link"]
    assert all(path.is_symlink() for path in tmp_path.glob("*.link"))
    assert sorted(os.listdir(tmp_path / "far")) == ["file", "new", "x"]


def test_no_file_takes_the_place_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace_file(tmp_path / "pipe", "said")
    assert os.read(reader, 9) == b"said"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(("call", "name", "other"), [(write, "x", "x-y"), (replace_file, "x.txt", "x.txt2")])
def test_the_next_call_takes_away_what_a_kill_left(
    call: Callable[[Path, str], None],
    name: str,
    other: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But not what another one is writing, nor what was written for another name."""
    monkeypatch.setattr(files, "_sync", die)
    for target in (name, other):
        killed(lambda target=target: call(tmp_path / target, "killed"))
    monkeypatch.undo()
    check_free(tmp_path, "a test", ())
    sync, inner = files._sync, iter(["inner"])

    def busy(file: Path) -> None:
        sync(file)
        for text in inner:
            call(tmp_path / name, text)
            assert (tmp_path / name).exists()

    monkeypatch.setattr(files, "_sync", busy)
    call(tmp_path / name, "outer")
    (left,) = tmp_path.glob(".*")
    assert left.name.startswith(f".{other}.weft-")
    made = tmp_path / name
    assert (made.read_text() if made.is_file() else read(made)[0]) == "outer"


def test_the_old_folder_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no exchange, and refuses the second of two renames."""
    write(tmp_path / "x", "old")
    rename = os.rename

    def refuse_new(source: Path, target: Path) -> None:
        if target == tmp_path / "x" and not source.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(files, "_exchanged", no_exchange)
    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(SaveError, match="untouched"):
        write(tmp_path / "x", "new")
    assert read(tmp_path / "x") == ["old", "old"]
    assert os.listdir(tmp_path) == ["x"]


def test_two_that_write_a_new_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is refused: the one that comes last stays."""
    exchanged = files._exchanged

    def beaten(fresh: Path, target: Path) -> bool:
        done = exchanged(fresh, target)
        if not done:
            monkeypatch.undo()
            write(tmp_path / "x", "first")
        return done

    monkeypatch.setattr(files, "_exchanged", beaten)
    write(tmp_path / "x", "last")
    assert read(tmp_path / "x") == ["last", "last"]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_of_a_file(
    stop: BaseException | type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file(tmp_path / "x", "old")

    def refuse(*_: object) -> None:
        raise stop

    monkeypatch.setattr(files, "_sync", refuse)
    with pytest.raises((KeyboardInterrupt, SaveError)):
        replace_file(tmp_path / "x", "new")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_disk_that_refuses_safetensors(tmp_path: Path) -> None:
    """Their error is of a kind of its own; that of a file which cannot be written is no SaveError."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    write(tmp_path / "x", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(SaveError, match="File too large"), replace_folder(tmp_path / "x") as fresh:
            save_file({"x": np.zeros(1000)}, fresh / "one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for error in (SafetensorError("a tensor of no known type"), MissingFileError("no tokenizer")):
        with pytest.raises(type(error)), replace_folder(tmp_path / "x"):
            raise error
    assert read(tmp_path / "x") == ["old", "old"]
    assert os.listdir(tmp_path) == ["x"]


def test_a_place_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before hours of work."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="file is a file"):
        check_free(tmp_path / "file/a/b", "a test", ())
    check_free(tmp_path / "a/b", "a test", ())
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(SaveError, match="nothing may be written into"):
        check_free(tmp_path / "a/b", "a test", ())
