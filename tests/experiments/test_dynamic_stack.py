"""The comparison of stacks: every depth is measured, and what is not called costs nothing."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from weft.cli.shared.recipe import read_recipe
from weft.embed import OneHot
from weft.experiments.dynamic.quick import shorten
from weft.experiments.dynamic.recipe import DynamicRecipe
from weft.experiments.dynamic.stack import FLAT, UNIT, always, costs, grade_of, measure_depths, measure_stack
from weft.host import Host
from weft.hyper import HyperNetwork, Stack, StackConfig, T2LConfig, build_t2l
from weft.hyper.stack import build_network
from weft.plot.costs import draw_costs
from weft.tasks.source import LettersSource, load_splits

RECIPE = Path(__file__).parents[2] / "recipes/letters/dynamic_stack.yaml"
LEVEL = {"head": {"kind": "Z", "core": "full"}, "latent": 16, "head_in": 12, "rank": 3, "dropout": 0.0}
FIRST = {"head": {"kind": "Z"}, "latent": 16, "head_in": 16, "rank": 2, "dropout": 0.0}
DATA = {"kind": "letters", "train_tasks": 60}


@pytest.fixture(scope="module")
def host():
    return Host.from_pretrained("weft/letters", dtype="float32")


def test_every_depth_costs_what_it_calls(host):
    tasks = load_splits(LettersSource.model_validate(DATA))["validation"][:3]
    encoder = OneHot([task.descriptions[0] for task in tasks])
    torch.manual_seed(0)
    config = StackConfig.model_validate({"kind": "stack", "first": FIRST, "higher": [LEVEL, LEVEL]})
    stack = build_network(config, host.sites, dim=encoder.dim)
    assert isinstance(stack, Stack)
    with torch.no_grad():  # the first task stops at once, the second after one level
        stack.halts[0].weight[0, :3] = torch.tensor([9.0, -9.0, -9.0])
        stack.halts[1].weight[0, :3] = torch.tensor([0.0, 9.0, -9.0])
    single = build_t2l(T2LConfig.model_validate(FIRST), host.sites, dim=encoder.dim)
    found = {}
    for network in (stack, single):
        hyper = HyperNetwork(encoder, network, base=host.fingerprint).requires_grad_(False)
        found |= measure_depths(host, hyper, tasks, 2)
    assert list(found) == [always(0), always(1), always(2), UNIT, FLAT]
    flops = [found[always(depth)][0].flops for depth in range(3)]
    assert flops == sorted(set(flops))
    with FlopCounterMode(display=False) as counter:
        single(torch.eye(3)[:1])
    assert found[FLAT][0].flops == flops[0] == counter.get_total_flops()
    assert [said.depth for said in found[UNIT]] == [0, 1, 2]
    asked = 2 * (encoder.dim + FIRST["head_in"])  # of the unit, at each depth below the last
    assert [said.flops for said in found[UNIT]] == [
        flops[0] + asked,
        flops[1] + 2 * asked,
        flops[2] + 2 * asked,
    ]
    # levels that have learned nothing change no answer
    assert len({tuple(round(said.nats, 4) for said in of_way) for of_way in list(found.values())[:4]}) == 1


def test_a_seed_trains_what_it_compares(tmp_path):
    recipe = shorten(read_recipe(DynamicRecipe, RECIPE, []))
    assert recipe.stack is not None

    def small(training, steps):
        run = training.run.model_copy(update={"output_dir": str(tmp_path / "runs"), "max_steps": steps})
        source = LettersSource.model_validate(DATA | {"train_tasks": 100})
        changes = {"run": run, "data": source, "rows_per_task": 1, "encoder_cache": str(tmp_path / "cache")}
        if "eval_tasks" in type(training).model_fields:
            changes["eval_tasks"] = 2
        shares = dict.fromkeys(training.category_shares, 1 if len(training.category_shares) > 1 else 2)
        return training.model_copy(update={**changes, "category_shares": shares})

    comparison = recipe.stack.model_copy(
        update={
            "first": small(recipe.stack.first, 2),
            "recipe": small(recipe.stack.recipe, 8),
            "flat": small(recipe.stack.flat, 2),
            "tasks": 2,
            "rows": 2,
        }
    )
    lines = measure_stack(comparison)
    value = {(line.what, line.who): line.mean for line in lines}
    fixed = [always(depth) for depth in range(3)]
    flops = [value["MFLOPs per adapter, all", name] for name in fixed]
    assert flops == sorted(set(flops))
    assert flops[0] < value["MFLOPs per adapter, all", UNIT] <= flops[2] * 1.001
    assert abs(value["parameters, millions", "all levels"] / value["parameters, millions", FLAT] - 1) < 0.07
    assert -1 <= value["rank correlation of depth and operations", UNIT] <= 1
    grades = {"single operations", "pairs", "triples", "unseen parameters", "all"}
    assert costs(lines).keys() <= grades
    assert list(costs(lines)["all"]) == ["every fixed depth", UNIT, FLAT]
    assert len(costs(lines)["all"]["every fixed depth"]) == 3
    draw_costs(costs(lines), tmp_path / "costs.png", label="MFLOPs")
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
    assert measure_stack(comparison) == lines  # what is trained is not trained again
    # without a first level and a rival of its own, the levels above a trained network are compared alone
    trained = comparison.recipe.model_copy(update={"init": str(tmp_path / "runs/first-0/hypernetwork")})
    alone = measure_stack(comparison.model_copy(update={"recipe": trained, "first": None, "flat": None}))
    assert {line.who for line in alone} == {*fixed, UNIT, "all levels"}


def test_tasks_are_graded_by_their_operations():
    splits = load_splits(LettersSource.model_validate(DATA | {"train_tasks": 2000}))
    of = {split: {grade_of(split, task) for task in tasks} for split, tasks in splits.items()}
    assert of["train"] == {"single operations", "pairs", "triples"}
    assert of["unseen_compositions"] == {"pairs", "triples"}
    assert of["unseen_parameters"] == {"unseen parameters"}
