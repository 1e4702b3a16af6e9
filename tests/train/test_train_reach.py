"""What a hypernetwork keeps of its training tasks."""

import json
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_host, write_tasks

from weft.cli import main
from weft.embed import OneHot, SentenceEncoder
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l, reach
from weft.tasks import Task
from weft.tasks.source import LettersSource, load_splits
from weft.train.reach import reach_of
from weft.types import AbstractEncoder

LETTERS = LettersSource(kind="letters", train_tasks=24, validation_tasks=2, train_rows=4, test_rows=4)


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    return load_splits(LETTERS)["train"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return tiny_host(write_tasks(tmp_path_factory.mktemp("tasks")))


def network(host: Host, encoder: AbstractEncoder) -> HyperNetwork:
    torch.manual_seed(0)
    config = T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0)
    return HyperNetwork(encoder, build_t2l(config, host.sites, dim=encoder.dim), name="tiny")


def test_a_network_that_reads_names_keeps_none(host: Host, tasks: tuple[Task, ...]) -> None:
    assert reach_of(network(host, OneHot([task.name for task in tasks])), tasks) is None


def test_kept_wordings_are_within_and_gibberish_is_not(
    host: Host, tasks: tuple[Task, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hyper = network(host, SentenceEncoder())
    assert reach_of(hyper, [Task("a", ("say a",), tasks[0].train, tasks[0].test)]) is None
    found = reach_of(hyper, tasks)
    assert found is not None
    assert found["known"] == [task.descriptions[0] for task in tasks]
    hyper.provenance["reach"] = found
    within = [reach(hyper, task.unseen_descriptions[0]).is_within for task in tasks]
    assert sum(within) >= 0.9 * len(within)
    assert not reach(hyper, "qzk vplt xrw hjjw plo").is_within

    # A folder that does not keep it learns the same from its own recipe, and nothing else in it changes.
    recipe = {
        "run": {"output_dir": "run", "max_steps": 1},
        "base": "tiny",
        "data": LETTERS.model_dump(mode="json"),
        "encoder": {"kind": "sentence"},
    }
    hyper.provenance = {"recipe": recipe, "seed": 3}
    hyper.save_pretrained(tmp_path / "old")
    weights = (tmp_path / "old" / "model.safetensors").read_bytes()
    argv = ["reach", str(tmp_path / "old")]
    assert main([*argv, tasks[0].descriptions[0]]) == 1
    assert "--learn finds them by its recipe" in capsys.readouterr().err
    assert main([*argv, tasks[0].descriptions[0], "--learn", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threshold"] == found["threshold"]
    assert told["in reach"]
    assert told["nearest"][0] == tasks[0].descriptions[0]
    again = HyperNetwork.from_pretrained(tmp_path / "old")
    assert again.provenance == {"recipe": recipe, "seed": 3, "reach": found}
    assert (tmp_path / "old" / "model.safetensors").read_bytes() == weights
