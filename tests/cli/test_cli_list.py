import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_cli import Tiny

from weft.cli import main
from weft.tasks import Row, Task, save_task


def listed(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    assert main(["list", *argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert main(["list", *argv]) == 0
    # A title, a rule, and one line for each.
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 2
    return rows


@pytest.fixture
def models(tiny: Tiny, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the one with the embedded models."""
    folder = tmp_path / "models"
    shutil.copytree(tiny.base, folder / "letters")
    shutil.copytree(tiny.hyper, folder / "letters-t2l")
    shutil.copytree(adapter, folder / "letters-loras" / "sort")
    for room in ("cli.list", "files"):  # first the one whose import takes the name from the other
        monkeypatch.setattr(f"weft.{room}.embedded_folder", lambda: folder)
    return folder


def test_models_are_the_default(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys)
    assert rows == listed(capsys, "models")
    assert [(row["name"], row["kind"]) for row in rows] == [
        ("weft/letters", "base"),
        ("weft/letters-loras", "1 adapters"),
        ("weft/letters-t2l", "hypernetwork"),
        ("weft/smollm2", "base"),
    ]
    assert all(row["megabytes"] > 0 for row in rows)


def test_adapters(models: Path, tiny: Tiny, adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = listed(capsys, "adapters")[0]
    assert row == listed(capsys, "adapters", "weft/letters-loras")[0]
    assert row["path"] == str(models / "letters-loras" / "sort")
    there = listed(capsys, "adapters", str(Path(adapter).parent))[0]
    assert there == {
        "name": "sort",
        "rank": 2,
        "sites": 14,
        "base": tiny.fingerprint,
        "about": "sort the letters",
        "path": adapter,
    }


def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("# What a is.\nx: 1\n")
    (tmp_path / "b.yaml").write_text("x: 1\n")
    rows = listed(capsys, "recipes", str(tmp_path))
    assert rows == [
        {"recipe": "a.yaml", "about": "What a is."},
        {"recipe": "b.yaml", "about": None},
    ]


def test_tasks_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(name="double", descriptions=("double it", "twice"), train=(Row("a", "aa"),), category="easy")
    save_task(task, tmp_path / "double")
    rows = listed(capsys, "tasks", str(tmp_path))
    assert rows == [{"name": "double", "split": "train", "category": "easy", "about": "double it"}]


def test_tasks_of_the_letters_world(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "tasks")
    assert {"train", "unseen_compositions"} <= {row["split"] for row in rows}
    assert "reverse" in {row["name"] for row in rows}


def test_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "encoders")
    assert {row["kind"] for row in rows} >= {"sentence", "host_states", "onehot", "learned", "joined"}
    assert all(row["about"] for row in rows)


@pytest.mark.parametrize("what", ["adapters", "recipes", "tasks"])
def test_an_empty_place_is_an_error(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "none"):
        assert main(["list", what, str(place)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert str(place) in err


def test_models_take_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models", "x"]) == 1
    assert "takes no folder" in capsys.readouterr().err


def test_a_pipe_gets_no_padding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, about in (("long", "x " * 600 + "end"), ("short", "y")):
        save_task(Task(name=name, descriptions=(about,), train=(Row("a", "b"),)), tmp_path / name)
    assert main(["list", "tasks", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert set(lines[1]) == {"\u2500"}
    assert len(lines[1]) == 100
    assert max(map(len, lines)) > 1200
    assert len(lines[3]) < 60
