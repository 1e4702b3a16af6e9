import json
import math
from pathlib import Path

import pytest
import yaml
from tiny_cli import DESCRIPTIONS, Tiny

from weft.cli import main
from weft.tasks import Row, Task, save_task


@pytest.fixture
def recipe(tiny: Tiny, tmp_path: Path) -> Path:
    for name, description in zip(("sort", "reverse"), DESCRIPTIONS, strict=True):
        rows = tuple(Row(text, text[::-1]) for text in ("cab", "bad", "dab"))
        task = Task(name=name, descriptions=(description,), train=rows, test=rows)
        save_task(task, tmp_path / "tasks" / name)
    values = {
        "base": tiny.base,
        "hypernetworks": [],
        "data": {"kind": "folder", "path": str(tmp_path / "tasks")},
        "seeds": [0],
        "rows_per_task": 2,
        "max_new_tokens": 4,
        "bootstrap_samples": 20,
    }
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_prints_and_writes(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = recipe.parent / "page.md"
    assert main(["eval", str(recipe), "--output", str(page), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "base+description" in out
    assert f"weft eval {recipe} --output {page}" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["seeds"] == [0]


def test_json_is_all_that_is_printed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"][0]["tasks"] == 2


def test_a_page_that_cannot_be_written_loses_nothing(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(recipe), "output=page.txt"]) == 1
    out, err = capsys.readouterr()
    assert "base+description" in out
    assert "page.txt" in err


def test_dry_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(recipe), "--dry-run", "--max-tasks", "1"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["max_tasks"] == 1


def test_an_unknown_key(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(recipe), "--max-task", "1"]) == 1
    assert "did you mean max_tasks?" in capsys.readouterr().err


def test_an_adapter_on_a_file_of_rows(
    tiny: Tiny, adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weft.adapters import load
    from weft.engine import Engine
    from weft.evaluate import evaluate_rows
    from weft.host import Host
    from weft.types import Mixture

    said = Engine(Host.from_pretrained(tiny.base)).generate(
        ["cab", "dab"], mixture=Mixture.of(load(adapter)), max_new_tokens=8
    )
    rows = [Row("cab", said[0]), Row("dab", said[1] + "x")]
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": r.prompt, "completion": r.completion}) + "\n" for r in rows)
    )
    kept = tmp_path / "said.jsonl"
    flags = ["--data", str(file), "--predictions", str(kept), "--max-new-tokens", "8", "--json"]
    assert main(["eval", adapter, *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    engine = Engine(Host.from_pretrained(tiny.base))
    wanted = evaluate_rows(engine, rows, Mixture.of(load(adapter)), max_new_tokens=8)
    assert told["loss"] == pytest.approx(wanted.loss)
    assert told["perplexity"] == pytest.approx(math.exp(wanted.loss))
    assert told["rows"] == 2
    assert told["exact_match"] == wanted.exact_match == 0.5
    alone = evaluate_rows(engine, rows, None, max_new_tokens=8)
    assert told["loss - base"] == pytest.approx(wanted.loss - alone.loss)
    assert main(["eval", adapter, *flags[:-1]]) == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"left out", "exact match", "exact match - base"} <= set(names)
    assert "without" not in names
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [line["prediction"] for line in lines] == [text for _, _, text in wanted.predictions] == said
    (tmp_path / "folder").mkdir()
    flags[3] = str(tmp_path / "folder")
    assert main(["eval", adapter, *flags]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == told  # what was measured is not lost
    assert err.startswith("weft: could not write")
    assert main(["eval", tiny.base, "--data", str(file), "--json", "--max-new-tokens", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(alone.loss)


def test_predictions_do_not_replace_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "cab", "completion": "bac"}\n')
    kept = str(tmp_path / "." / "rows.jsonl")
    assert main(["eval", "weft/letters", "--data", str(file), "--predictions", kept]) == 1
    assert "would replace the rows" in capsys.readouterr().err
    assert file.read_text() == '{"prompt": "cab", "completion": "bac"}\n'
