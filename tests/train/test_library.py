"""A library of task LoRAs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import source, tiny_host, write_tasks
from tokenizers.normalizers import Lowercase

from weft.adapters import load
from weft.errors import ConfigError
from weft.host import Host
from weft.tasks import load_tasks, render
from weft.train.learned_bank import score
from weft.train.library import LibraryRecipe, train_library
from weft.types import Bank


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def host(tasks: Path) -> Host:
    return tiny_host(tasks)


def recipe(tasks: Path, output: Path, **changes: Any) -> LibraryRecipe:
    values = {
        "output_dir": str(output),
        "base": "tiny",
        "data": source(tasks),
        "tasks_at_once": 3,
        "r": 4,
        "lora_alpha": 8,
        "optimizer": {"learning_rate": 0.02},
        "max_steps": 12,
        "rows_per_task": 4,
        "validation_rows": 4,
        "eval_steps": 2,
        "patience": 2,
    } | changes
    return LibraryRecipe.model_validate(values)


def index(output: Path) -> dict[str, Any]:
    return json.loads((output / "library.json").read_text())["tasks"]


def test_every_task_gets_an_adapter_as_it_was_at_its_best(tasks: Path, host: Host, tmp_path: Path) -> None:
    folder = train_library(recipe(tasks, tmp_path / "library"), host=host)
    told = index(tmp_path / "library")
    assert set(told) == {task.name for task in load_tasks(tasks)} == {path.name for path in folder.iterdir()}
    for task in load_tasks(tasks):
        one = told[task.name]
        adapter = load(folder / task.name)
        assert adapter.provenance["description"] == task.descriptions[0]
        assert 0 < one["kept_step"] <= one["steps"] <= 12
        bank = Bank.stack([adapter])
        for part, key in ((task.train[-4:], "validation_loss"), (task.test, "test_loss")):
            rows = [render(host.tokenizer, row) for row in part]
            assert one[key] == pytest.approx(score(host, bank, rows, tokens=512)[0], abs=1e-5)
        assert one["train_rows"] == len(task.train) - 4
        assert one["validation_loss"] < one["test_loss_before"]


def test_an_adapter_does_not_depend_on_its_group(tasks: Path, host: Host, tmp_path: Path) -> None:
    hasty = {"optimizer": {"learning_rate": 0.1}, "eval_steps": 1, "patience": 1, "max_steps": 30}
    together = train_library(recipe(tasks, tmp_path / "four", tasks_at_once=4, **hasty), host=host)
    alone = train_library(recipe(tasks, tmp_path / "one", tasks_at_once=1, **hasty), host=host)
    both = index(tmp_path / "four"), index(tmp_path / "one")
    assert len({one["steps"] for one in both[0].values()}) > 1  # they stopped one after another
    for name in both[0]:
        assert both[0][name]["steps"] == both[1][name]["steps"]
        a, b = load(together / name), load(alone / name)
        for site, factors in a.factors.items():
            torch.testing.assert_close(factors.b_OR, b.factors[site].b_OR, atol=1e-4, rtol=1e-3)


def test_it_goes_on_with_the_tasks_that_lack(
    tasks: Path, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "library"
    whole = train_library(recipe(tasks, tmp_path / "whole"), host=host)
    from weft.train import library

    train_group, calls = library._train_group, []

    def killed(*args: Any) -> Any:
        if calls:
            raise KeyboardInterrupt
        calls.append(args)
        return train_group(*args)

    monkeypatch.setattr(library, "_train_group", killed)
    with pytest.raises(KeyboardInterrupt):
        train_library(recipe(tasks, output), host=host)
    assert len(index(output)) == 3
    monkeypatch.setattr(library, "_train_group", train_group)
    first = {name: (output / "adapters" / name / "README.md").stat().st_mtime_ns for name in index(output)}
    train_library(recipe(tasks, output), host=host)
    assert index(output) == index(tmp_path / "whole")
    for name, time in first.items():
        assert (output / "adapters" / name / "README.md").stat().st_mtime_ns == time
    for path in whole.iterdir():
        assert (output / "adapters" / path.name / "adapter_model.safetensors").read_bytes() == (
            path / "adapter_model.safetensors"
        ).read_bytes()
    # One whose folder is gone is trained again; another recipe is refused.
    shutil.rmtree(output / "adapters" / "upper")
    train_library(recipe(tasks, output), host=host)
    assert (output / "adapters" / "upper").is_dir()
    with pytest.raises(ConfigError, match="where r is 4 and not 2"):
        train_library(recipe(tasks, output, r=2), host=host)


def test_an_old_library_is_forgotten_when_a_new_one_begins(
    tasks: Path, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, output = [task.name for task in load_tasks(tasks)], tmp_path / "library"
    train_library(recipe(tasks, output).model_copy(update={"tasks": tuple(names[:2])}), host=host)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    other = recipe(tasks, output, r=2).model_copy(update={"tasks": tuple(names[1:2])})
    with monkeypatch.context() as patch:
        patch.setattr("weft.train.library._train_group", killed)
        with pytest.raises(KeyboardInterrupt):
            train_library(other, host=host, resume=False)
    folder = train_library(other, host=host)
    assert {path.name for path in folder.iterdir()} == {names[1]}
    assert load(folder / names[1]).rank == 2


def test_tasks_by_name(tasks: Path, host: Host, tmp_path: Path) -> None:
    chosen = [task.name for task in load_tasks(tasks)][:0:-1][:2]
    asked = recipe(tasks, tmp_path / "two").model_copy(update={"tasks": tuple(chosen)})
    folder = train_library(asked, host=host)
    assert {path.name for path in folder.iterdir()} == set(chosen) == set(index(tmp_path / "two"))
    with pytest.raises(ConfigError, match="no task 'uper' in train"):
        train_library(recipe(tasks, tmp_path / "none").model_copy(update={"tasks": ("uper",)}), host=host)


def test_more_tasks_join_a_library(tasks: Path, host: Host, tmp_path: Path) -> None:
    names, output = [task.name for task in load_tasks(tasks)], tmp_path / "library"
    few = recipe(tasks, output).model_copy(update={"tasks": tuple(names[:2])})
    train_library(few, host=host)
    before = {name: (output / "adapters" / name / "README.md").stat().st_mtime_ns for name in names[:2]}
    train_library(recipe(tasks, output), host=host)
    assert set(index(output)) == set(names)
    for name, time in before.items():
        assert (output / "adapters" / name / "README.md").stat().st_mtime_ns == time
    file = output / "library.json"
    told = json.loads(file.read_text())
    told["tasks"][names[0]]["data_hash"] = "other"
    file.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=f"the data of {names[0]} has changed"):
        train_library(few, host=host)


@pytest.mark.parametrize("part", ["base", "chat template", "tokenizer"])
def test_a_library_does_not_go_on_over_another_base(
    part: str, tasks: Path, host: Host, tmp_path: Path
) -> None:
    names, output = [task.name for task in load_tasks(tasks)], tmp_path / "library"
    train_library(recipe(tasks, output).model_copy(update={"tasks": tuple(names[:1])}), host=host)
    other = tiny_host(tasks, num_hidden_layers=1 if part == "base" else 2)
    if part == "chat template":
        other.tokenizer.chat_template += " "
    if part == "tokenizer":
        other.tokenizer.backend_tokenizer.normalizer = Lowercase()
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=rf"{part}.* has changed since the run in .*--no-resume"):
        train_library(recipe(tasks, output), host=other)
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
    file = output / "library.json"
    told = json.loads(file.read_text())
    del told["chat_template"]  # as older versions left it
    file.write_text(json.dumps(told))
    train_library(recipe(tasks, output), host=host)
    assert set(index(output)) == set(names)


def test_refusals(tasks: Path, host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="adapters are trained with optim: adamw"):
        recipe(tasks, tmp_path / "z", optimizer={"optim": "muon"})
    with pytest.raises(ConfigError, match="no split 'trian'"):
        train_library(recipe(tasks, tmp_path / "a", splits=["trian"]), host=host)
    with pytest.raises(ConfigError, match="two tasks"):
        train_library(recipe(tasks, tmp_path / "b", splits=["train", "train"]), host=host)
    train_library(recipe(tasks, tmp_path / "c", validation_rows=14), host=host)
    assert "left out upper: too few rows that fit" in capsys.readouterr().err
    assert not (tmp_path / "c" / "library.json").exists()
