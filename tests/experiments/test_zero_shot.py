"""What a generated adapter is worth, on a tiny base whose hypernetwork is random."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from tiny_training import source, tiny_host, tokenizer, write_tasks

from weft.cli import main
from weft.embed import InputEmbedding
from weft.errors import ConfigError
from weft.evaluate import CONTROLS
from weft.experiments.zero_shot.cost import ratios, with_examples
from weft.experiments.zero_shot.measure import measure_zero_shot
from weft.experiments.zero_shot.page import zero_shot_page
from weft.experiments.zero_shot.recipe import Controls, Steps, ZeroShotRecipe
from weft.experiments.zero_shot.steps import Curve, choose, summary, train_both
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.tasks import load_tasks, render
from weft.train.learned_bank import score
from weft.train.library import LibraryRecipe, train_library
from weft.types import Bank


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks, a random base and a random hypernetwork for it."""
    folder = tmp_path_factory.mktemp("zero-shot")
    write_tasks(folder / "tasks")
    tiny_host(folder / "tasks").module.save_pretrained(folder / "base")
    tokenizer(folder / "tasks").save_pretrained(folder / "base")
    host = Host.from_pretrained(folder / "base", dtype="float32")
    encoder = InputEmbedding(host)
    torch.manual_seed(2)
    config = T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0)
    network = build_t2l(config, host.sites, dim=encoder.dim)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    HyperNetwork(encoder, network, base=host.fingerprint, name="tiny").save_pretrained(folder / "hyper")
    return folder


def values(root: Path, output: Path, /, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(root / "base"),
        "hypernetwork": str(root / "hyper"),
        "data": source(root / "tasks"),
        "accuracy": {"splits": ["train"], "seeds": [0, 1], "max_new_tokens": 4, "bootstrap_samples": 50},
        "controls": {"mean_of": 3},
        "cost": {"adapters": 3, "repeats": 2, "prompt": 8, "shots": [1, 3], "tasks": 2},
        "steps": {"splits": ["train"], "tasks": 2, "steps": 4, "look": 3, "learning_rate": 0.01},
        "output_dir": str(output / "run"),
    } | changes


def test_everything_is_measured_once(root: Path, tmp_path: Path) -> None:
    told: list[str] = []
    recipe = ZeroShotRecipe.model_validate(values(root, tmp_path))
    found = measure_zero_shot(recipe, told.append)
    assert len(told) == 5
    [split] = found.splits
    measured = {result.condition for result in split.results if result.metrics}
    assert measured == {
        "base",
        "base+description",
        "generated",
        "generated, other task's description",
        "generated, gibberish",
    }
    [controls] = found.controls
    assert [(one.condition, one.rows) for one in controls.results] == [
        (name, split.rows) for name in CONTROLS
    ]
    assert [curve.at for curve in found.curves] == [(0, 3, 4)] * 2
    again = measure_zero_shot(recipe, told.append)
    assert len(told) == 5
    assert again == found
    page = zero_shot_page(recipe, again, pictures=("a.png", "b.png"), command="weft")
    for words in (
        "Seen tasks: 4 tasks",
        "one adapter, in decode steps",
        "Steps saved",
        "steps needed",
        "mean of those generated for 3",
    ):
        assert words in page
    other = recipe.model_copy(update={"cost": recipe.cost.model_copy(update={"adapters": 2})})
    measure_zero_shot(other, told.append)
    measure_zero_shot(other.model_copy(update={"controls": Controls(mean_of=2)}), told.append)
    assert told[5:] == ["zero-shot: cost", "zero-shot: controls-train"]


def test_oracles_of_some_functions(root: Path, tmp_path: Path) -> None:
    asked = {
        "output_dir": str(tmp_path / "library"),
        "base": str(root / "base"),
        "data": source(root / "tasks"),
        "tasks": ["upper"],
        "r": 2,
        "max_steps": 2,
        "validation_rows": 4,
    }
    oracles = train_library(LibraryRecipe.model_validate(asked))
    parts = {"oracles": str(oracles), "controls": None, "cost": None, "steps": None}
    recipe = ZeroShotRecipe.model_validate(values(root, tmp_path, **parts))
    found = measure_zero_shot(recipe)
    [split] = found.splits
    [oracle] = [result for result in split.results if result.condition == "oracle"]
    assert (oracle.tasks, oracle.reason) == (1, "1 of 4 tasks have an adapter of their own")
    assert [task for task, right in split.by_task.items() if "oracle" in right] == ["upper"]
    page = zero_shot_page(recipe, found, pictures=("a.png", "b.png"), command="weft")
    assert "| generated - oracle |" in page


def test_controls_need_rows(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="on the rows of accuracy"):
        ZeroShotRecipe.model_validate(values(root, tmp_path, accuracy=None))


def test_more_examples_in_the_prompt_cost_more(root: Path, tmp_path: Path) -> None:
    recipe = ZeroShotRecipe.model_validate(values(root, tmp_path, accuracy=None, controls=None, steps=None))
    cost = measure_zero_shot(recipe).cost
    flops = cost["flops"]
    none, one, three = (
        flops[name]
        for name in (
            "one answer under an adapter",
            "one answer, 1 examples in the prompt",
            "one answer, 3 examples in the prompt",
        )
    )
    assert none < one < three
    assert all(seconds > 0 for seconds in cost["seconds"].values())
    assert set(ratios(cost, 3)) == {"one adapter, in decode steps", "3 adapters, in one"}


def test_examples_are_turns_before_the_question(root: Path) -> None:
    task = load_tasks(root / "tasks")[0]
    row = with_examples(task, 2)
    assert row.prompt == task.test[0].prompt
    assert row.history == (
        ("user", task.train[0].prompt),
        ("assistant", task.train[0].completion),
        ("user", task.train[1].prompt),
        ("assistant", task.train[1].completion),
    )
    with pytest.raises(ConfigError, match="99 are asked for"):
        with_examples(task, 99)


def test_the_two_starts_are_the_base_and_the_generated_adapter(root: Path) -> None:
    host = Host.from_pretrained(root / "base", dtype="float32")
    hyper = HyperNetwork.from_pretrained(root / "hyper", host=host)
    task = load_tasks(root / "tasks")[0]
    steps = Steps(splits=("train",), steps=6, look=3, learning_rate=0.01)
    curve = train_both(host, hyper, task, steps, seed=0)
    rows = [render(host.tokenizer, row) for row in task.test]
    made = Bank.stack([hyper.adapt(task.descriptions[0])])
    nothing = Bank(made.names, made.a, {site: torch.zeros_like(b) for site, b in made.b.items()})
    assert curve.zero[0] == pytest.approx(score(host, nothing, rows, tokens=512)[0], abs=1e-5)
    assert curve.generated[0] == pytest.approx(score(host, made, rows, tokens=512)[0], abs=1e-5)
    assert abs(curve.zero[0] - curve.generated[0]) > 1e-3
    assert curve.zero[-1] < curve.zero[0]
    assert curve.generated[-1] < curve.generated[0]


def test_steps_needed() -> None:
    at = (0, 10, 20)
    early = Curve("a", at, (2.0, 1.5, 1.0), (1.2, 0.9, 0.8))
    at_once = Curve("b", at, (2.0, 1.5, 1.0), (0.9, 0.9, 0.9))
    never = Curve("c", at, (2.0, 1.5, 1.0), (3.0, 2.0, 1.5))
    assert [curve.needed for curve in (early, at_once, never)] == [10, 0, None]
    told = summary([early, at_once, never], 20)
    assert told == {"functions": 3, "median share of the steps": 0.5, "never": 1, "at once": 1}


def test_tasks_come_from_the_splits_by_turns(root: Path) -> None:
    first, second, third, fourth = load_tasks(root / "tasks")
    assert choose([[first, second, third], [fourth]], 3) == [first, fourth, second]
    with pytest.raises(ConfigError, match=r"hold 1 tasks, steps\.tasks is 2"):
        choose([[first]], 2)


def test_the_command_writes_page_values_and_pictures(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.md"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values(root, tmp_path)))
    assert main(["experiment", "zero-shot", str(recipe), "--quick", "--output", str(output)]) == 0
    told = json.loads(output.with_suffix(".json").read_text())
    assert told["recipe"]["accuracy"]["seeds"] == [0]
    assert told["saved"]["functions"] == 1
    assert "--quick" in output.read_text()
    for name in ("page.png", "page-steps.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_quick_is_for_this_alone(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "letters" / "merging.yaml"
    assert main(["experiment", "merging", str(recipe), "--quick"]) == 1
    assert "--quick is for dynamic, zero-shot and reconstruct" in capsys.readouterr().err
