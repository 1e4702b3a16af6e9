"""Training a blend over a library of four toy adapters: gradients against a plain loop, resuming, errors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny_training import EFFECTS, curve, lora_recipe, source, tiny_host, write_tasks
from torch.nn import functional as F

from tiny_models import make_bank
from weft import adapters
from weft.embed import OneHot
from weft.errors import BaseMismatchError, ConfigError, MissingFileError, PromptTooLongError, UnknownNameError
from weft.host import Host
from weft.route import Blend, load_library, load_router
from weft.tasks import load_tasks
from weft.train import Run, train_lora
from weft.train.blend import BlendRecipe, _backward, _choose, _labels, _rows, measure, train_blend
from weft.types import Mixture

NAMES = tuple(EFFECTS)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def host(tasks: Path) -> Host:
    return tiny_host(tasks)


@pytest.fixture(scope="module")
def library(tasks: Path, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of the tasks, each labelled with the first wording of another one."""
    folder = tmp_path_factory.mktemp("library")
    run = {"output_dir": str(folder / "run"), "max_steps": 40, "save_steps": 40}
    recipe = lora_recipe(tasks, folder, run=run, optimizer={"learning_rate": 0.03})
    for k, (name, made) in enumerate(train_lora(recipe, host=host).items()):
        told = {"description": f"{sorted(NAMES)[k - 1]} it"}
        adapters.save(replace(adapters.load(made), provenance=told), folder / "all" / name)
    return folder / "all"


def recipe_of(tasks: Path, library: Path, output: Path, /, **changes: Any) -> BlendRecipe:
    words = [*load_words(tasks), *(f"{name} it" for name in NAMES), *(f"make it {name}" for name in NAMES)]
    run = {"output_dir": str(output), "max_steps": 6, "logging_steps": 1, "save_steps": 3}
    values: dict[str, Any] = {
        "run": run | changes.pop("run", {}),
        "base": "tiny",
        "library": str(library),
        "data": source(tasks),
        "encoder": {"kind": "onehot", "names": words},
        "encoder_cache": str(output.parent / "cache"),
        "hidden": 16,
        "optimizer": {"learning_rate": 0.01},
        "tasks_per_batch": 4,
        "rows_per_task": 2,
    }
    return BlendRecipe.model_validate(values | changes)


def load_words(tasks: Path) -> list[str]:
    return sorted({row.prompt for task in load_tasks(tasks) for row in (*task.train, *task.test)})


def moved(recipe: BlendRecipe, labels: dict[str, str]) -> Blend:
    """A network whose every part has a gradient."""
    encoder = OneHot(recipe.encoder.names)  # pyright: ignore
    blend = Blend(encoder, labels, hidden=recipe.hidden, top_k=recipe.top_k)
    rng = torch.Generator().manual_seed(0)
    for parameter in (blend.last.weight, blend.key.weight):
        torch.nn.init.normal_(parameter, std=0.3, generator=rng)
    return blend


@pytest.mark.parametrize(("request_kind", "top_k"), [("description", None), ("prompt", None), ("prompt", 2)])
def test_gradients_equal_those_of_one_row_at_a_time(
    tasks: Path, host: Host, library: Path, tmp_path: Path, request_kind: str, top_k: int | None
) -> None:
    recipe = recipe_of(tasks, library, tmp_path, request=request_kind, top_k=top_k)
    loaded = load_library(library)
    bank, labels = loaded.bank(host), loaded.descriptions()
    draw, _ = _rows(recipe, host, _choose(recipe, loaded), bank)
    groups = draw(0)
    assert len(groups) == (4 if request_kind == "description" else 8)
    if top_k is not None:  # so few that some forward leaves adapters out
        groups = [group for group in groups if group.wanted == groups[0].wanted]
    blend = moved(recipe, labels)
    told = _backward(host, blend, bank, groups, 60, Accelerator())

    plain = moved(recipe, labels)
    asked = sum(len(row.completion_ids) for group in groups for row in group.rows)
    total = torch.zeros(())
    right = 0
    for group in groups:
        weight_1K = plain.weights([group.request], bank.names)
        assert group.wanted is not None
        right += int(weight_1K.argmax()) == group.wanted
        for row in group.rows:
            logits = host(torch.tensor([row.ids]), Mixture.dense(bank, weight_1K)).logits
            said = logits[0, len(row.prompt_ids) - 1 : -1]
            loss = F.cross_entropy(said, torch.tensor(row.completion_ids), reduction="sum") / asked
            loss.backward(retain_graph=True)
            total += loss.detach()
    assert told["loss"] == pytest.approx(total.item(), rel=1e-5)
    assert told["routed"] == right / len(groups)
    for (name, got), want in zip(blend.named_parameters(), plain.parameters(), strict=True):
        assert want.grad is not None
        torch.testing.assert_close(got.grad, want.grad, atol=1e-6, rtol=1e-3, msg=name)
        assert want.grad.abs().max() > 1e-7


def test_it_learns_what_the_labels_get_wrong(tasks: Path, host: Host, library: Path, tmp_path: Path) -> None:
    """Every label is that of another adapter, so the start is wrong; the loss tells better weights."""
    recipe = recipe_of(
        tasks,
        library,
        tmp_path / "run",
        run={"max_steps": 40, "save_steps": 40},
        optimizer={"learning_rate": 0.05},
        rows_per_task=4,
        temperature=0.5,
    )
    folder = train_blend(recipe, host=host)
    lines = curve(tmp_path / "run")
    loaded = load_library(library)
    bank = loaded.bank(host)
    blend = load_router(folder, bank, host=host)
    assert isinstance(blend, Blend)
    assert dict(blend.labels) == loaded.labels
    _, test = _rows(recipe, host, _choose(recipe, loaded), bank)
    again = measure(host, blend, bank, test, tokens=500)
    labelled = Blend(blend.encoder, loaded.labels, temperature=0.5)
    before = measure(host, labelled, bank, test, tokens=500)
    assert before["test/routed"] == 0
    assert again["test/routed"] >= 0.5
    assert again["test/loss"] < before["test/loss"] - 0.1
    assert {k: lines[-1][k] for k in again} == pytest.approx(again, abs=1e-4)
    # The measure by hand, row by row.
    total, base, places = 0.0, 0.0, 0
    for group in test:
        mixture = blend.route(group.request, bank)
        for row in group.rows:
            target = torch.tensor(row.completion_ids)
            for under in (mixture, None):
                said = host(torch.tensor([row.ids]), under).logits[0, len(row.prompt_ids) - 1 : -1]
                loss = F.cross_entropy(said, target, reduction="sum").item()
                total, base = (total + loss, base) if under else (total, base + loss)
            places += len(target)
    assert again["test/loss"] == pytest.approx(total / places, rel=1e-4)
    assert again["base/loss"] == pytest.approx(base / places, rel=1e-4)


def test_labels_may_be_all_wordings_of_the_tasks(
    tasks: Path, host: Host, library: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tasks, library, tmp_path / "run", labels="wordings", run={"max_steps": 1})
    loaded = load_library(library)
    chosen = {task.name: task for task in _choose(recipe, loaded)}
    blend = load_router(train_blend(recipe, host=host), loaded.bank(host), host=host)
    assert isinstance(blend, Blend)
    assert dict(blend.labels) == {name: chosen[name].descriptions for name in sorted(chosen)}
    upper = chosen["upper"]
    assert _labels(recipe, loaded, [upper]) == loaded.labels | {"upper": upper.descriptions}


def test_a_resumed_run_is_the_same_run(
    tasks: Path, host: Host, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    whole = train_blend(recipe_of(tasks, library, tmp_path / "whole"), host=host)
    log = Run.log

    def stop(self: Run, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        if step == 5:  # checkpoint 3 is there, steps 4 and 5 are lost
            raise Stopped

    monkeypatch.setattr(Run, "log", stop)
    with pytest.raises(Stopped):
        train_blend(recipe_of(tasks, library, tmp_path / "parts"), host=host)
    monkeypatch.setattr(Run, "log", log)
    parts = train_blend(recipe_of(tasks, library, tmp_path / "parts"), host=host)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_bad_recipes(tasks: Path, host: Host, library: Path, tmp_path: Path) -> None:
    def refused(match: str, error: type[Exception], folder: Path = library, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            train_blend(recipe_of(tasks, folder, tmp_path / "run", **changes), host=host)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    refused("no library at nowhere", MissingFileError, library="nowhere")
    refused("no adapter in", MissingFileError, folder=tasks)
    refused("no split 'trian'", UnknownNameError, split="trian")
    refused("tasks is 9, the split train has 4", ConfigError, tasks=9)
    refused("at most 5 fit", PromptTooLongError, max_length=5)
    bank = make_bank(host.sites, 1, 2)
    told = {"description": "make it upper"}
    adapters.save(replace(bank[0], base="weft1-other", provenance=told), tmp_path / "other" / "late")
    refused("no task of the split train is named after", ConfigError, tmp_path / "other", tasks="library")
    refused("belongs to base weft1-other", BaseMismatchError, tmp_path / "other")
    adapters.save(bank[0], tmp_path / "bare" / "late")
    refused("adapter late has no description", ConfigError, tmp_path / "bare")


def test_a_row_that_is_too_long_is_told_before_the_first_step(
    tasks: Path, host: Host, library: Path, tmp_path: Path
) -> None:
    long = shutil.copytree(tasks, tmp_path / "tasks") / "upper" / "train.jsonl"
    long.write_text(long.read_text() + json.dumps({"prompt": "cat " * 99, "completion": "CAT"}) + "\n")
    recipe = recipe_of(tmp_path / "tasks", library, tmp_path / "run", rows_per_task=1)
    with pytest.raises(PromptTooLongError, match="at most 96 fit"):
        train_blend(recipe, host=host)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
