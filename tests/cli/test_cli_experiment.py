import json
from pathlib import Path

import pytest
import yaml
from tiny_cli import DESCRIPTIONS, Tiny

from weft.adapters import load, save
from weft.cli import main
from weft.tasks import Row, Task, save_task


@pytest.fixture
def recipe(tiny: Tiny, adapter: str, tmp_path: Path) -> Path:
    for name, description in zip(("sort", "reverse"), DESCRIPTIONS, strict=True):
        rows = tuple(Row(text, text[::-1]) for text in ("cab", "bad", "dab"))
        save_task(
            Task(name=name, descriptions=(description,), train=rows, test=rows), tmp_path / "tasks" / name
        )
        save(load(adapter), tmp_path / "library" / name)
    values = {
        "base": tiny.base,
        "library": str(tmp_path / "library"),
        "data": {"kind": "folder", "path": str(tmp_path / "tasks")},
        "encoder": {"kind": "onehot", "names": list(DESCRIPTIONS)},
        "sets": {1: 1, 2: 1},
        "methods": {"linear": {"method": "linear"}},
        "rows_per_task": 2,
        "max_new_tokens": 4,
        "encoder_cache": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "run"),
    }
    path = tmp_path / "merging.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_prints_and_writes_page_picture_and_json(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = recipe.parent / "page.md"
    assert main(["experiment", "merging", str(recipe), "--output", str(page)]) == 0
    assert capsys.readouterr().out == page.read_text()
    assert "![exact match against the number of adapters](page.png)" in page.read_text()
    assert (recipe.parent / "page.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(page.with_suffix(".json").read_text())
    assert {(point["way"], point["size"]) for point in told["points"]} >= {("linear", 1), ("routed", 2)}


def test_json(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "merging", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["sets"] == {"1": 1, "2": 1}


def test_a_page_must_be_markdown(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "merging", str(recipe), "--output", "page.txt"]) == 1
    assert "output is a .md file" in capsys.readouterr().err
    assert not (recipe.parent / "run").exists()


def test_quick_shortens_what_changes_while_it_runs_and_nothing_else(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamic = str(Path(__file__).parents[2] / "recipes/letters/dynamic.yaml")
    assert main(["experiment", "dynamic", dynamic, "--quick", "--dry-run", "--json"]) == 0
    quick = json.loads(capsys.readouterr().out)["shift"]
    assert main(["experiment", "dynamic", dynamic, "--dry-run", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["shift"]
    assert quick["recipe"]["run"]["max_steps"] < whole["recipe"]["run"]["max_steps"]
    assert quick["streams"] < whole["streams"]
    assert quick["recipe"]["run"]["output_dir"] == whole["recipe"]["run"]["output_dir"] + "-quick"
    assert quick["lengths"] == whole["lengths"]
    assert main(["experiment", "merging", str(recipe), "--quick"]) == 1
    assert "--quick is for dynamic" in capsys.readouterr().err
