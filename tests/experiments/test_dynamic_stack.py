"""The comparison of stacks: every depth is measured, and what is not called costs nothing."""

import torch

from weft.embed import OneHot
from weft.experiments.dynamic.stack import StackComparison, measure_stack
from weft.host import Host
from weft.hyper import HyperNetwork, Stack, StackConfig, T2LConfig, build_t2l
from weft.hyper.stack import build_network
from weft.tasks.source import LettersSource, load_splits

LEVEL = {"head": {"kind": "Z", "core": "full"}, "latent": 16, "head_in": 12, "rank": 3, "dropout": 0.0}
FIRST = {"head": {"kind": "Z"}, "latent": 16, "head_in": 16, "rank": 2, "dropout": 0.0}
DATA = {"kind": "letters", "train_tasks": 60}


def test_every_depth_is_measured_and_costs_what_it_calls(tmp_path):
    host = Host.from_pretrained("weft/letters", dtype="float32")
    tasks = load_splits(LettersSource.model_validate(DATA))["validation"][:3]
    encoder = OneHot([task.descriptions[0] for task in tasks])
    torch.manual_seed(0)
    config = StackConfig.model_validate({"kind": "stack", "first": FIRST, "higher": [LEVEL, LEVEL]})
    stack = build_network(config, host.sites, dim=encoder.dim)
    assert isinstance(stack, Stack)
    single = build_t2l(T2LConfig.model_validate(FIRST), host.sites, dim=encoder.dim)
    for name, network in (("stack", stack), ("flat", single)):
        HyperNetwork(encoder, network, base=host.fingerprint, name=name).save_pretrained(tmp_path / name)
    recipe = StackComparison.model_validate(
        {
            "base": "weft/letters",
            "stacks": [str(tmp_path / "stack")],
            "flat": [str(tmp_path / "flat")],
            "data": DATA,
            "splits": ["validation"],
            "tasks": 3,
            "rows": 2,
        }
    )
    lines = {(line.what, line.who): line.mean for line in measure_stack(recipe, lambda _: None)}
    fixed = [f"{levels} levels above the first, always" for levels in (0, 1, 2)]
    flops = [lines["MFLOPs per adapter", name] for name in fixed]
    assert flops == sorted(set(flops))
    assert lines["MFLOPs per adapter", "one flat network"] == flops[0]
    # levels that have learned nothing change no answer, and a unit that has learned nothing goes to the top
    assert len({lines["exact match, all", name] for name in (*fixed, "halting unit")}) == 1
    groups = {what for what, _ in lines if what.startswith("nats per token, ")}
    assert groups
    assert all(group.endswith(", validation") for group in groups)
    assert all(len({lines[group, name] for name in fixed}) == 1 for group in groups)
    assert all(lines[group, "halting unit"] > 0 for group in groups)
    assert lines["levels used, mean", "halting unit"] == 2
    assert lines["MFLOPs per adapter", "halting unit"] == flops[2]
    assert lines["rank correlation of depth and operations", "halting unit"] == 0
    assert lines["parameters, millions", "all levels"] > lines["parameters, millions", "one flat network"]
