import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from weft.cli import main
from weft.cli.shared.recipe import parse_overrides
from weft.errors import ConfigError
from weft.tasks import Row, Task, save_task

RECIPE = """
run: {output_dir: OUT, max_steps: 2, logging_steps: 1}
data: {kind: folder, path: TASKS, vocab_size: 260}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 1, num_key_value_heads: 1}
tasks_per_batch: 2
rows_per_task: 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(RECIPE.replace("OUT", str(tmp_path / "run")).replace("TASKS", str(tmp_path / "tasks")))
    rows = (Row("a", "b"), Row("b", "c"))
    for name in ("next", "after"):
        save_task(
            Task(name=name, descriptions=(f"the {name} letter",), train=rows), tmp_path / "tasks" / name
        )
    return path


def test_what_one_process_trains_is_refused_to_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    shift = Path(__file__).parents[2] / "recipes/letters/shift.yaml"
    assert main(["train", "shift", str(shift)]) == 1
    assert "shift is trained by one process; base, lora, hyper, blend, tree" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "overrides"),
    [
        (["run.max_steps=3", "a=b=c"], ["run.max_steps=3", "a=b=c"]),
        (["--run.max-steps", "3", "--run.seed", "-1"], ["run.max-steps=3", "run.seed=-1"]),
        (["--run.max-steps=3", "--x", "y=z"], ["run.max-steps=3", "x=y=z"]),
        ([], []),
    ],
)
def test_overrides(tokens: list[str], overrides: list[str]) -> None:
    assert parse_overrides(tokens) == overrides


def test_an_override_without_its_value() -> None:
    with pytest.raises(ConfigError, match="--resum is no option"):
        parse_overrides(["--run.seed", "1", "--resum"])


def test_trains_a_base_and_goes_on(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = recipe.parent / "run"
    argv = ["train", "base", str(recipe), "--run.logging-steps", "2"]
    assert main([*argv, "--threads", "1"]) == 0
    assert capsys.readouterr().out == f"{run / 'model'}\n"
    assert (run / "model" / "config.json").is_file()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == [2]
    # Finished, so that going on changes nothing, and starting again does the work again.
    metrics = run / "metrics.jsonl"
    before, written = metrics.read_text(), metrics.stat().st_mtime_ns
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folders": [str(run / "model")]}
    assert metrics.read_text() == before
    assert main([*argv, "--no-resume"]) == 0
    assert metrics.stat().st_mtime_ns > written


def test_dry_run_prints_the_whole_recipe(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "base", str(recipe), "--dry-run", "--run.max-steps", "7", "data.vocab_size=300"]
    assert main(argv) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert (values["run"]["max_steps"], values["data"]["vocab_size"]) == (7, 300)
    assert values["optimizer"]["learning_rate"] > 0
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == values
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ("run.max_stepz=3", "did you mean run.max_steps?"),
        ("run.max_steps=many", "run.max_steps"),
        ("run.max_steps", "key=value"),
    ],
)
def test_a_wrong_change_is_one_line(
    change: str, hint: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "base", str(recipe), change]) == 1
    err = capsys.readouterr().err
    assert hint in err
    assert err.count("\n") == 1


def test_no_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "hyper", "nowhere.yaml"]) == 1
    assert capsys.readouterr().err == "weft: no such file: nowhere.yaml\n"


@pytest.mark.parametrize(
    ("kind", "meant"), [("hypr", "hyper"), ("sft", "lora"), ("QLoRA", "lora"), ("t2l", "hyper")]
)
def test_a_kind_by_another_name_leads_to_ours(
    kind: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", kind, "nowhere.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"weft: there is no training '{kind}' (did you mean {meant}?); there are base, ")
    assert err.count("\n") == 1


def test_one_folder_for_each_task(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from weft.train.base import BaseRecipe

    asked: list[Any] = []

    def train_lora(config: BaseRecipe, *, resume: bool) -> dict[str, Path]:
        asked.append((config.run.max_steps, resume))
        return {"a": Path("x/a"), "b": Path("x/b")}

    fake = ModuleType("weft.train.lora")
    vars(fake).update(SimpleNamespace(LoraRecipe=BaseRecipe, train_lora=train_lora).__dict__)
    monkeypatch.setitem(sys.modules, "weft.train.lora", fake)
    assert main(["train", "lora", str(recipe), "--no-resume"]) == 0
    assert asked == [(2, False)]
    assert capsys.readouterr().out == "x/a\nx/b\n"
