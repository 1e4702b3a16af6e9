"""Training a hypernetwork on four toy tasks that contradict each other."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import base_recipe, curve, source, tiny_host, write_tasks

from swarm.faults import Schedule, parts_of, spread
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.tasks import load_tasks, render, save_task
from weft.train import HyperRecipe, Run, train_base, train_hyper
from weft.train.steering import steering
from weft.types import Examples


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy tasks, tested on rows that are trained on: the tiny base knows no other words."""
    folder = write_tasks(tmp_path_factory.mktemp("hyper") / "tasks")
    for task in load_tasks(folder):
        save_task(replace(task, test=task.train), folder / task.name)
    return folder


def recipe(tasks: Path, output: Path, **changes: Any) -> HyperRecipe:
    values: dict[str, Any] = {
        "run": {
            "output_dir": str(output),
            "max_steps": 6,
            "logging_steps": 1,
            "save_steps": 3,
            "eval_steps": 3,
        },
        "base": "tiny",
        "data": source(tasks),
        "select_on": "train",
        "encoder": {"kind": "sentence"},
        "encoder_cache": str(tasks.parent / "cache"),
        "network": {"head": {"kind": "L"}, "rank": 4, "latent": 32, "head_in": 32, "dropout": 0.1},
        "optimizer": {"learning_rate": 0.003},
        "tasks_per_batch": 4,
        "rows_per_task": 4,
    }
    return HyperRecipe.model_validate(values | changes)


@pytest.fixture(scope="module")
def first(tasks: Path) -> Path:
    """A hypernetwork of one training, from which others go on."""
    return train_hyper(recipe(tasks, tasks.parent / "first"), host=tiny_host(tasks))


def test_three_steps_and_three_resumed_are_six_to_the_bit(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    train_hyper(recipe(tasks, tmp_path / "whole"), host=tiny_host(tasks))
    log = Run.log

    def stop(self: Run, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        if step == 5:  # checkpoint 3 is there, steps 4 and 5 are lost
            raise Stopped

    monkeypatch.setattr(Run, "log", stop)
    with pytest.raises(Stopped):
        train_hyper(recipe(tasks, tmp_path / "parts"), host=tiny_host(tasks))
    monkeypatch.setattr(Run, "log", log)
    train_hyper(recipe(tasks, tmp_path / "parts"), host=tiny_host(tasks))
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    name = "checkpoint-6/model.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_killed_at_its_last_checkpoint_lacks_nothing(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Run.save

    def stop(self: Run, step: int, *parts: Any) -> None:
        save(self, step, *parts)
        if step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train_hyper(recipe(tasks, tmp_path / "run"), host=tiny_host(tasks))
    monkeypatch.undo()
    train_hyper(recipe(tasks, tmp_path / "run"), host=tiny_host(tasks))
    last = json.loads((tmp_path / "run/last/config.json").read_text())
    assert last["provenance"]["step"] == 6


def test_it_learns_to_steer_a_base_that_follows_descriptions(tasks: Path, tmp_path: Path) -> None:
    base = train_base(
        base_recipe(
            tasks,
            tmp_path / "base",
            run={"max_steps": 150, "logging_steps": 50},
            model={"hidden_size": 64},
            optimizer={"optim": "muon", "learning_rate": 0.005, "matrix_learning_rate": 0.03},
            rows_per_task=8,
            bare_ratio=0.2,
        )
    )
    output = tmp_path / "hyper"
    folder = train_hyper(
        recipe(
            tasks,
            output,
            base=str(base),
            run={"output_dir": str(output), "max_steps": 80, "logging_steps": 10, "eval_steps": 20},
            optimizer={"optim": "muon", "learning_rate": 0.003, "matrix_learning_rate": 0.03},
            rows_per_task=8,
        )
    )
    lines = curve(output)
    evaluated = [line for line in lines if "margin" in line]
    best = max(evaluated, key=lambda line: line["steering"])
    assert best["margin"] > 0.8
    assert best["loss_margin"] == pytest.approx(best["loss_other"] - best["loss_right"])
    # What is saved is the best by steering, reads back, and steers as the run said.
    host = Host.from_pretrained(base)
    hyper = HyperNetwork.from_pretrained(folder, host=host)
    again = steering(host, hyper, load_tasks(tasks))
    assert again["loss_margin"] == pytest.approx(best["loss_margin"], abs=1e-5)
    last = HyperNetwork.from_pretrained(output / "last", host=host)
    found = steering(host, last, load_tasks(tasks))
    assert found["loss_margin"] == pytest.approx(evaluated[-1]["loss_margin"], abs=1e-5)
    assert last.provenance["step"] == 80
    told = json.loads((folder / "config.json").read_text())["provenance"]
    assert told["recipe"]["rows_per_task"] == 8
    assert len(told["data_hash"]) == 64


def test_the_untrained_network_changes_nothing(tasks: Path, tmp_path: Path) -> None:
    host = tiny_host(tasks)
    folder = train_hyper(
        recipe(tasks, tmp_path / "run", optimizer={"learning_rate": 1e-12}, save_dtype="bfloat16"), host=host
    )
    hyper = HyperNetwork.from_pretrained(folder, host=host)
    assert {p.dtype for p in hyper.network.parameters()} == {torch.float32}
    found = steering(host, hyper, load_tasks(tasks))
    assert found["right"] == found["other"]


def test_rows_that_do_not_fit_are_left_out_before_the_first_step(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = tiny_host(tasks)
    lengths = [len(render(host.tokenizer, row).ids) for task in load_tasks(tasks) for row in task.train]
    short = max(lengths) - 1
    assert min(lengths) < short
    train_hyper(recipe(tasks, tmp_path / "run", max_length=short), host=host)
    said = capsys.readouterr().err
    longer = 2 * sum(length > short for length in lengths)  # the test rows are the train rows here
    assert f"left out {longer} rows of more than {short} tokens" in said
    assert re.search(r"a step reads \d+ tokens in about [\d.]+ s, 6 steps take about", said)
    with pytest.raises(ConfigError, match="0 of 4 tasks have train and test rows of at most 2 tokens"):
        train_hyper(recipe(tasks, tmp_path / "none", max_length=2), host=host)


def test_parts_of_a_batch_and_recomputing_change_nothing(tasks: Path, tmp_path: Path) -> None:
    whole = {"network": {"head": {"kind": "L"}, "rank": 4, "latent": 32, "head_in": 32, "dropout": 0.0}}
    train_hyper(recipe(tasks, tmp_path / "whole", **whole), host=tiny_host(tasks))
    parts = whole | {"tokens_per_forward": 60, "gradient_checkpointing": True}
    train_hyper(recipe(tasks, tmp_path / "parts", **parts), host=tiny_host(tasks))
    for ours, theirs in zip(curve(tmp_path / "parts"), curve(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-4)
    # Two batches of two tasks each, added up, are one of four.
    halves = whole | {"tasks_per_batch": 2, "gradient_accumulation_steps": 2}
    one = {"output_dir": str(tmp_path / "halves"), "max_steps": 1, "logging_steps": 1}
    train_hyper(recipe(tasks, tmp_path / "halves", run=one, **halves), host=tiny_host(tasks))
    first, other = curve(tmp_path / "halves")[0], curve(tmp_path / "whole")[0]
    assert first["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert first["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_a_base_in_half_precision_and_a_network_in_whole(tasks: Path, tmp_path: Path) -> None:
    host = tiny_host(tasks)
    host.module.to(torch.bfloat16)
    folder = train_hyper(recipe(tasks, tmp_path / "run"), host=host)
    assert {p.dtype for p in HyperNetwork.from_pretrained(folder).network.parameters()} == {torch.float32}
    losses = [line["loss"] for line in curve(tmp_path / "run") if "loss" in line]
    assert len(losses) == 6
    assert all(loss == loss for loss in losses)


def test_examples_beside_the_description(tasks: Path, tmp_path: Path) -> None:
    cue = {"examples": 3, "description_dropout": 0.3, "examples_dropout": 0.3}
    parts = {"kind": "parts", "encoder": {"kind": "sentence"}}
    folder = train_hyper(recipe(tasks, tmp_path / "run", cue=cue, encoder=parts), host=tiny_host(tasks))
    hyper = HyperNetwork.from_pretrained(folder)
    shown = Examples((("cat", "CAT"), ("dog", "DOG")))
    adapters = [hyper.adapt(c) for c in ("upper it", shown, Examples(shown.pairs, "upper it"))]
    assert len({float(next(iter(a.factors.values())).b_OR.sum()) for a in adapters}) == 3
    own = {"cue": {"own_prompt": True}, "encoder": parts, "rows_per_task": 1, "eval_rows": 1}
    train_hyper(recipe(tasks, tmp_path / "own", **own), host=tiny_host(tasks))
    with pytest.raises(ConfigError, match="rows_per_task 1"):
        train_hyper(recipe(tasks, tmp_path / "no", **own | {"rows_per_task": 2}), host=tiny_host(tasks))
    with pytest.raises(ConfigError, match="encoder of kind parts, this one is sentence"):
        train_hyper(recipe(tasks, tmp_path / "none", cue=cue), host=tiny_host(tasks))


def test_an_unknown_split_is_refused(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no split 'trein' \(did you mean train\?\)"):
        train_hyper(recipe(tasks, tmp_path / "run", select_on="trein"), host=tiny_host(tasks))


def test_goes_on_from_another_run(tasks: Path, first: Path, tmp_path: Path) -> None:
    start = HyperNetwork.from_pretrained(first, host=tiny_host(tasks))
    still = {"learning_rate": 1e-12, "weight_decay": 0.0}
    other = recipe(tasks, tmp_path / "second", init=str(first), optimizer=still)
    went_on = HyperNetwork.from_pretrained(train_hyper(other, host=tiny_host(tasks)), host=tiny_host(tasks))
    for key, value in start.state_dict().items():
        torch.testing.assert_close(went_on.state_dict()[key], value, rtol=0, atol=1e-6)
    assert went_on.provenance["recipe"]["init"] == str(first)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"network": {"head": {"kind": "L"}, "rank": 2, "latent": 32, "head_in": 32}}, "another network"),
        ({"encoder": {"kind": "onehot", "names": ["a", "b"]}}, "take that encoder"),
    ],
)
def test_a_start_that_does_not_fit(
    tasks: Path, first: Path, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        train_hyper(recipe(tasks, tmp_path / "second", init=str(first), **changes), host=tiny_host(tasks))


def test_a_soup_is_the_mean_of_its_parts(tasks: Path, first: Path, tmp_path: Path) -> None:
    other = recipe(tasks, tmp_path / "second", init=str(first), soup=[str(first)])
    soup = train_hyper(other, host=tiny_host(tasks))
    assert soup == tmp_path / "second" / "soup"
    host = tiny_host(tasks)
    parts = [HyperNetwork.from_pretrained(p, host=host) for p in (soup.with_name("hypernetwork"), first)]
    made = HyperNetwork.from_pretrained(soup, host=host)
    for key, value in made.state_dict().items():
        mean = (parts[0].state_dict()[key] + parts[1].state_dict()[key]) / 2
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)
    assert made.provenance["soup"][1]["recipe"]["run"]["output_dir"] == str(tasks.parent / "first")
    assert made.provenance["metrics"]["right"] >= 0
    train_hyper(other, host=tiny_host(tasks))  # finished: going on cooks the same soup, and no other
    again = HyperNetwork.from_pretrained(soup, host=host)
    for key, value in again.state_dict().items():
        assert torch.equal(value, made.state_dict()[key])


def test_over_stages_that_die_a_training_is_the_local_one_to_the_bit(tasks: Path, tmp_path: Path) -> None:
    """A network is trained through three stages that fail: the losses and the file of one process."""
    local = tiny_host(tasks, num_hidden_layers=3)
    faults = Schedule(2, 0.2, ("kill", "kill after", "lost answer"))
    parts = parts_of(tiny_host(tasks, num_hidden_layers=3).module, [0, 1, 2, 3])
    host, _ = spread(parts, faults, tokenizer=local.tokenizer, name="tiny")
    plain = recipe(tasks, tmp_path / "local", gradient_checkpointing=True)
    train_hyper(plain, host=local)
    folder = train_hyper(recipe(tasks, tmp_path / "spread", gradient_checkpointing=True), host=host)
    assert curve(tmp_path / "spread") == curve(tmp_path / "local")
    file = "checkpoint-6/model.safetensors"
    assert (tmp_path / "spread" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()
    assert folder.name == "hypernetwork"
    assert sum(faults.counts.values()) > 3


def test_what_a_spread_base_does_not_train_is_told(tasks: Path, tmp_path: Path) -> None:
    local = tiny_host(tasks)
    host, _ = spread(parts_of(local.module, [0, 1, 2]), tokenizer=local.tokenizer, name="tiny")
    with pytest.raises(ConfigError, match="host_states needs a host, or the name of a base"):
        train_hyper(recipe(tasks, tmp_path / "a", encoder={"kind": "host_states"}), host=host)
    with pytest.raises(ConfigError, match="over a spread host target_modules are all-linear or a list"):
        train_hyper(recipe(tasks, tmp_path / "b", target_modules=".*q_proj"), host=host)
    made = train_hyper(recipe(tasks, tmp_path / "c", target_modules=["q_proj"]), host=host)
    assert {site.module for site in HyperNetwork.from_pretrained(made).sites} == {"q_proj"}
