"""`weft train stack` on four toy tasks: phases, and that a level that has not learned is silent."""

from dataclasses import replace

import pytest
import torch
from tiny_training import curve, source, tiny_host, write_tasks

from weft.embed import OneHot
from weft.errors import ConfigError
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.tasks import load_tasks, save_task
from weft.train.stack import StackRecipe, build_stack_on, train_stack

LEVEL = {"head": {"kind": "Z", "core": "full"}, "latent": 16, "head_in": 12, "rank": 3, "dropout": 0.0}


@pytest.fixture
def first(tmp_path):
    """Tasks, a base, and a hypernetwork that has been moved away from its start."""
    tasks = write_tasks(tmp_path / "tasks")
    host = tiny_host(tasks)
    words = [text for task in load_tasks(tasks) for text in task.descriptions]
    encoder = OneHot(words)
    torch.manual_seed(0)
    config = T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0)
    network = build_t2l(config, host.sites, dim=encoder.dim)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    hyper = HyperNetwork(encoder, network, base=host.fingerprint, name="first")
    hyper.save_pretrained(tmp_path / "first")
    return tasks, host, hyper


def recipe(tasks, tmp_path, **changes):
    values = {
        "run": {"output_dir": str(tmp_path / "run"), "max_steps": 20, "logging_steps": 1, "save_steps": 5},
        "base": "tiny",
        "data": source(tasks),
        "init": str(tmp_path / "first"),
        "encoder_cache": str(tmp_path / "cache"),
        "higher": [LEVEL, LEVEL],
        "optimizer": {"learning_rate": 0.01},
        "tasks_per_batch": 4,
        "rows_per_task": 2,
    }
    return StackRecipe.model_validate({**values, **changes})


def numbers(hyper, levels):
    bank = hyper.generate(torch.eye(hyper.encoder.dim)[:3], levels=levels)
    return torch.cat([bank.b[site].flatten() for site in bank.sites])


def test_a_stack_begins_as_its_first_level(first, tmp_path):
    tasks, _, hyper = first
    made = build_stack_on(hyper, recipe(tasks, tmp_path), data_hash="", encoder_cache=str(tmp_path / "cache"))
    for levels in (0, 1, 2):
        torch.testing.assert_close(numbers(made, levels), numbers(hyper, None))


def test_every_phase_moves_what_it_should(first, tmp_path):
    tasks, host, hyper = first
    folder = train_stack(recipe(tasks, tmp_path), host=host)
    lines = curve(tmp_path / "run")
    depths = [line["depth"] for line in lines if "depth" in line]
    assert depths[:8] == [1.0] * 4 + [2.0] * 4  # 20 % of 20 steps for each level
    assert all(0 <= depth <= 2 for depth in depths[8:17])  # means of four cues
    assert len(set(depths[8:17])) > 2
    assert all(0 < depth < 2 for depth in depths[17:])  # the halting unit's mean
    made = HyperNetwork.from_pretrained(folder, host=host)
    assert (numbers(made, 0) - numbers(made, 1)).abs().max() > 0
    assert (numbers(made, 1) - numbers(made, 2)).abs().max() > 0
    one = load_tasks(tasks)[0]
    save_task(replace(one, train=one.train[1:]), tasks / one.name)
    with pytest.raises(ConfigError, match="the data has changed since the run in"):
        train_stack(recipe(tasks, tmp_path), host=host)
    # a run of the first phase alone leaves the other levels as they were drawn
    short = recipe(
        tasks, tmp_path / "short", init=str(tmp_path / "first"), init_share=0.4, halting_share=0.2, price=0.0
    )
    again = HyperNetwork.from_pretrained(train_stack(short, host=host), host=host)
    torch.testing.assert_close(numbers(again, 0), numbers(hyper, None), atol=1e-6, rtol=0)
    assert (numbers(again, 0) - numbers(again, 2)).abs().max() > 0


def test_a_first_level_that_is_kept_answers_as_before(first, tmp_path):
    tasks, host, hyper = first
    made = HyperNetwork.from_pretrained(
        train_stack(recipe(tasks, tmp_path, keep_first=True, init_share=0.1), host=host), host=host
    )
    for name, kept in hyper.network.state_dict().items():
        assert torch.equal(made.network.levels[0].state_dict()[name], kept), name
    assert (numbers(made, 0) - numbers(made, 1)).abs().max() > 0
    assert (numbers(made, 1) - numbers(made, 2)).abs().max() > 0
    depths = [line["depth"] for line in curve(tmp_path / "run") if "depth" in line][4:17]
    assert all(1 <= depth <= 2 for depth in depths)  # a cue at depth 0 would teach nothing
    assert len(set(depths)) > 1


def test_the_schedule_ends_where_the_unit_begins(first, tmp_path):
    tasks, host, _ = first
    train_stack(recipe(tasks, tmp_path, halting_share=0.5, halting_learning_rate=0.07), host=host)
    rates = [line["learning_rate"] for line in curve(tmp_path / "run") if "learning_rate" in line]
    assert rates[10:] == pytest.approx([0.07 * left / 10 for left in range(10, 0, -1)])
    assert rates[:10] == sorted(rates[:10], reverse=True)
    assert rates[9] == pytest.approx(0, abs=1e-9)  # of ten steps of the levels, not of twenty


def test_shares_that_leave_no_steps_are_refused(first, tmp_path):
    tasks, host, _ = first
    with pytest.raises(ConfigError, match="more than all steps"):
        train_stack(recipe(tasks, tmp_path, init_share=0.5, halting_share=0.5), host=host)
