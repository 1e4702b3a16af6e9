"""Training a tree: gradients against a plain loop, resuming, what is saved, text, and errors."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from tiny_training import curve, source, tiny_host, write_tasks
from torch.nn import functional as F

from weft.errors import ConfigError, PromptTooLongError, UnknownNameError
from weft.host import Host
from weft.route import load_tree
from weft.route.tree import Descent
from weft.route.tree_losses import balance, hardening, uneven_turns
from weft.tasks import load_tasks, render
from weft.train.answer_logits import split_rows
from weft.train.tree import TreeRecipe, train_tree
from weft.train.tree.forwards import answer_under, heard, measure, watch
from weft.train.tree.learned_tree import LearnedTree, learned_tree
from weft.train.tree.loop import _backward, _schedule, _start_evenly
from weft.train.tree.rows import choose_tasks, tree_rows


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def host(tasks: Path) -> Host:
    return tiny_host(tasks)


def recipe_of(tasks: Path, output: Path, /, **changes: Any) -> TreeRecipe:
    run = {"output_dir": str(output), "max_steps": 6, "logging_steps": 1, "save_steps": 3}
    values: dict[str, Any] = {
        "run": run | changes.pop("run", {}),
        "base": "tiny",
        "data": source(tasks) | changes.pop("data", {}),
        "tasks_per_batch": 4,
        "depth": 2,
        "r": 2,
        "lora_alpha": 4,
        "optimizer": {"learning_rate": 0.01},
    }
    return TreeRecipe.model_validate(values | changes)


SCOPES: list[dict[str, Any]] = [
    {"scope": "token", "layers": (0,), "shared_r": 2},
    {"scope": "token", "layers": "all"},
    {"scope": "token", "layers": (1,)},
    {"scope": "sequence"},
]


def warmed(recipe: TreeRecipe, host: Host) -> LearnedTree:
    """What is trained, away from B = 0, where all leaves are alike."""
    learned = learned_tree(recipe, host)
    rng = torch.Generator().manual_seed(0)
    for name, parameter in learned.named_parameters():
        if ".b." in name:
            parameter.data = torch.randn(parameter.shape, generator=rng) * 0.1
    return learned


@pytest.mark.parametrize(("changes", "descent"), [*((c, "soft") for c in SCOPES), (SCOPES[0], "hard")])
def test_gradients_equal_those_of_one_row_at_a_time(
    tasks: Path, host: Host, tmp_path: Path, changes: dict[str, Any], descent: Descent
) -> None:
    recipe = recipe_of(tasks, tmp_path, balance=0.0, tokens_per_forward=80, **changes)
    draw, _ = tree_rows(recipe, host, choose_tasks(recipe))
    groups = draw(0)
    learned = warmed(recipe, host)
    plain = warmed(recipe, host)
    learned.gate.descent = plain.gate.descent = descent
    told, _ = _backward(host, learned, groups, recipe, 0.0, Accelerator())
    got = {name: parameter.grad for name, parameter in learned.named_parameters()}
    rows = [row for group in groups for row in group]
    asked = sum(len(row.completion_ids) for row in rows)
    total = torch.zeros(())
    for row in rows:
        mixture = plain.mixture()
        ids_BT = torch.tensor([row.ids])
        told_at = torch.tensor([[1] * len(row.prompt_ids) + [0] * len(row.completion_ids)])
        states = host.prepare(ids_BT, mixture, mask_BT=told_at)
        logits = host(ids_BT, mixture, states=states).logits[0, len(row.prompt_ids) - 1 : -1]
        loss = F.cross_entropy(logits, torch.tensor(row.completion_ids), reduction="sum") / asked
        loss.backward()
        total += loss.detach()
    assert told["loss"] == pytest.approx(total.item(), rel=1e-5)
    for name, parameter in plain.named_parameters():
        if descent == "hard" and name.startswith("gate"):
            assert got[name] is None  # the nodes stay as they are
            continue
        assert parameter.grad is not None, name
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)
    if descent == "soft":
        assert got["gate.weight_LNH"].abs().max() > 1e-5


def test_the_terms_of_the_loss_move_the_nodes(tasks: Path, host: Host, tmp_path: Path) -> None:
    """Their gradient is the difference that the terms make, by the functions that tests of route/ check."""
    recipe = recipe_of(tasks, tmp_path, balance=0.7, tokens_per_forward=10_000)
    draw, _ = tree_rows(recipe, host, choose_tasks(recipe))
    grads = []
    for factor, bal in ((0.5, 0.7), (0.0, 0.0)):
        learned = warmed(recipe, host)
        _backward(host, learned, draw(0), recipe.model_copy(update={"balance": bal}), factor, Accelerator())
        grads.append(learned.gate.weight_LNH.grad.clone())
    learned = warmed(recipe, host)
    [forward] = split_rows(draw(0), tokens=10_000, pad_id=host.tokenizer.pad_token_id)
    _, decisions = answer_under(host, learned.mixture(), forward.packed)
    seen = heard(forward.packed, "token")
    [decided] = decisions.values()
    weight, index = learned.gate.weights_of(decided.logits), learned.gate.leaf_of(decided.logits)
    terms = 0.5 * hardening(decided.logits, seen) + 0.7 * balance(weight, index, seen)
    want = torch.autograd.grad(terms, learned.gate.weight_LNH)[0]
    torch.testing.assert_close(grads[0] - grads[1], want, atol=1e-6, rtol=1e-3)
    # Padding is not heard, every token before the last of a row's answer is.
    real = sum(len(row.ids) for group in draw(0) for row in group)
    assert int(seen.sum()) <= real
    assert int(seen.sum()) >= int((forward.packed.targets_BT >= 0).sum())


@pytest.mark.parametrize("hard_ratio", [0.0, 1.0])
def test_rebalancing_moves_each_bias_against_its_load(
    tasks: Path, host: Host, tmp_path: Path, hard_ratio: float
) -> None:
    biases = []
    for rate in (0.0, 0.3):
        output = tmp_path / str(rate)
        recipe = recipe_of(tasks, output, run={"max_steps": 1}, rebalance=rate, hard_ratio=hard_ratio)
        tree = load_tree(train_tree(recipe, host=host), host=host)
        biases.append(tree.gate.bias_LN)
    # The one step saw the even start, under leaves that were all alike still.
    learned = learned_tree(recipe, host)
    draw, _ = tree_rows(recipe, host, choose_tasks(recipe))
    _start_evenly(host, learned, learned.gate, draw(0), 2048)
    _, load_LK = _backward(host, learned, draw(0), recipe, 0.0, Accelerator())
    moved = 0.3 * uneven_turns(load_LK, learned.gate.right_NK, learned.gate.left_NK)
    assert moved.abs().max() > 0
    torch.testing.assert_close(biases[0] - biases[1], moved, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("changes", [SCOPES[0], SCOPES[3], {"depth": 0}])
def test_it_learns_and_is_saved(tasks: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    host = tiny_host(tasks, hidden_size=64)
    recipe = recipe_of(
        tasks,
        tmp_path,
        run={"max_steps": 20, "save_steps": 20},
        r=4,
        lora_alpha=8,
        optimizer={"learning_rate": 0.02},
        **changes,
    )
    folder = train_tree(recipe, host=host)
    lines = curve(tmp_path)
    assert lines[-2]["loss"] < 0.6 * lines[0]["loss"]
    tree = load_tree(folder, host=host)
    assert tree.leaves.base == host.fingerprint
    assert len(tree.leaves) == 2**recipe.depth
    assert (tree.shared is not None) == bool(recipe.shared_r)
    _, test = tree_rows(recipe, host, choose_tasks(recipe))
    again = measure(host, tree.mixture, test, tokens=500)
    for name in ("base/loss", "soft/loss", "hard/loss", "followed", "largest_load", "dead_leaves", "entropy"):
        assert lines[-1][name] == pytest.approx(again[name], abs=1e-4)
    assert again["hard/loss"] < again["base/loss"]
    assert again["gap"] == pytest.approx(again["hard/loss"] / again["soft/loss"] - 1, abs=1e-6)
    if not recipe.depth:
        assert again["gap"] == pytest.approx(0, abs=1e-5)
        assert again["largest_load"] == 1


@pytest.mark.parametrize("changes", [SCOPES[1], SCOPES[3]])
def test_every_leaf_begins_with_as_many_tokens(
    tasks: Path, host: Host, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = recipe_of(tasks, tmp_path, rows_per_task=12, **changes)
    draw, _ = tree_rows(recipe, host, choose_tasks(recipe))
    loads = []
    for evenly in (False, True):
        learned = learned_tree(recipe, host)
        if evenly:
            _start_evenly(host, learned, learned.gate, draw(0), 10_000)
        [forward] = split_rows(draw(0), tokens=10_000, pad_id=host.tokenizer.pad_token_id)
        _, decisions = answer_under(host, learned.mixture(), forward.packed)
        loads.append(watch(learned.gate, decisions, forward.packed)[2][-1].tolist())
    before, after = loads
    assert sum(before) == sum(after)
    # Equal inputs cannot part: within a few of a quarter each, in the last layer that decides.
    assert max(after) - min(after) <= 0.15 * sum(after) < max(before) - min(before)


def test_the_schedule(tasks: Path, host: Host, tmp_path: Path) -> None:
    recipe = recipe_of(
        tasks,
        tmp_path,
        run={"max_steps": 10},
        hardening=0.4,
        temperature=2.0,
        final_temperature=0.125,
        hard_ratio=0.2,
    )
    gate = learned_tree(recipe, host).gate
    found = []
    for done in (0, 4, 8, 9, 10):
        factor = _schedule(gate, recipe, done)
        found.append((pytest.approx(factor), gate.descent, pytest.approx(gate.temperature)))
    assert found == [
        (0, "soft", 2.0),
        (0.2, "soft", 0.5),
        (0.4, "soft", 0.125),
        (0.4, "hard", 0.125),
        (0.4, "hard", 0.125),
    ]


def test_measured_loss_is_that_of_separate_rows(tasks: Path, host: Host, tmp_path: Path) -> None:
    recipe = recipe_of(tasks, tmp_path, scope="sequence")
    learned = warmed(recipe, host)
    _, test = tree_rows(recipe, host, choose_tasks(recipe))
    found = measure(host, learned.mixture(), test, tokens=90)
    assert learned.gate.descent == "soft"  # as it was
    learned.gate.eval()
    for kind in ("soft", "hard"):
        learned.gate.descent = kind
        total, places, loads = 0.0, 0, [0] * 4
        for [row] in test:
            tree = learned.tree()
            ids_BT = torch.tensor([row.ids])
            states = host.prepare(ids_BT[:, : len(row.prompt_ids)], tree.mixture)
            with torch.no_grad():
                logits = host(ids_BT, tree.mixture, states=states).logits[0, len(row.prompt_ids) - 1 : -1]
            total += F.cross_entropy(logits, torch.tensor(row.completion_ids), reduction="sum").item()
            places += len(row.completion_ids)
            if kind == "hard":
                loads[int(states[tree.gate][0].assignment.index_B)] += 1
        assert found[f"{kind}/loss"] == pytest.approx(total / places, rel=1e-4)
    assert found["largest_load"] == pytest.approx(max(loads) / (sum(loads) / 4))
    assert found["dead_leaves"] == loads.count(0)


def test_a_resumed_run_is_the_same_run(tasks: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"shared_r": 2, "run": {"eval_steps": 3}}
    whole = train_tree(recipe_of(tasks, tmp_path / "whole", **changes), host=tiny_host(tasks))
    first = recipe_of(tasks, tmp_path / "parts", **changes)
    train_tree(first, host=tiny_host(tasks))
    # As if it had been killed after step 3: its checkpoint is what the run of 6 steps wrote there.
    stopped = tmp_path / "parts"
    shutil.rmtree(stopped / "tree")
    for checkpoint in stopped.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weft.train.tree.loop.save_tree", _stop)
        patch.setattr("weft.train.run.Run._drop", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            train_tree(first, host=tiny_host(tasks))
    shutil.rmtree(stopped / "checkpoint-6")
    again = train_tree(first, host=tiny_host(tasks))
    assert curve(stopped) == curve(tmp_path / "whole")
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def _stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_plain_text_alone(tasks: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt.gz"
    with gzip.open(file, "wt") as text:
        text.write("\n".join(f"the cat number {i} and the dog number {i} sat down" for i in range(400)))
    for scope, prompt in (("token", 1), ("sequence", 6)):
        host = tiny_host(tasks)
        recipe = recipe_of(
            tasks,
            tmp_path / scope,
            data={"texts": [str(file)]},
            tasks_per_batch=0,
            text_rows=4,
            text_length=24,
            text_prompt=prompt,
            scope=scope,
        )
        draw, test = tree_rows(recipe, host, choose_tasks(recipe))
        assert [[len(row.ids) for row in group] for group in draw(0)] == [[24]] * 4
        assert {len(row.prompt_ids) for group in draw(1) for row in group} == {prompt}
        assert draw(1) == draw(1) != draw(2)
        held = {tuple(row.ids) for group in test for row in group}
        assert len(held) > 5
        assert not any(tuple(row.ids) in held for step in range(20) for group in draw(step) for row in group)
        train_tree(recipe, host=host)
        assert curve(tmp_path / scope)[-1]["soft/loss"] > 0


def test_bad_recipes(tasks: Path, host: Host, tmp_path: Path) -> None:
    def refused(match: str, error: type[Exception] = ConfigError, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            train_tree(recipe_of(tasks, tmp_path / "run", **changes), host=host)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    refused("no split 'trian' .did you mean train", UnknownNameError, split="trian")
    refused("tasks is 9, the split train has 4", tasks=9)
    refused("layer 7 decides first", layers=(7,))
    refused("rising order", layers=(1, 0))
    refused("the plain text has 0 tokens", text_rows=2, text_length=24)
    refused("text_length is 400", text_rows=2, text_length=400)
    refused("at most 5 fit", PromptTooLongError, max_length=5)
    for changes in (
        {"tasks_per_batch": 0},
        {"depth": 7},
        {"optimizer": {"optim": "muon"}},
        {"text_rows": 1, "text_length": 8, "text_prompt": 8},
        {"temperature": 0},
    ):
        with pytest.raises(ValidationError):
            recipe_of(tasks, tmp_path, **changes)


def test_the_description_is_what_routes(tasks: Path, host: Host, tmp_path: Path) -> None:
    """Told apart by the prompt: with descriptions the same word makes different prompts."""
    for describe in (True, False):
        recipe = recipe_of(tasks, tmp_path, describe=describe)
        draw, _ = tree_rows(recipe, host, choose_tasks(recipe))
        task = load_tasks(tasks)[0]
        bare = render(host.tokenizer, task.train[0]).prompt_ids
        shortest = min(len(row.prompt_ids) for group in draw(0) for row in group)
        assert (shortest > len(bare)) == describe


def test_a_row_that_is_too_long_is_told_before_the_first_step(
    tasks: Path, host: Host, tmp_path: Path
) -> None:
    long = shutil.copytree(tasks, tmp_path / "tasks") / "upper" / "train.jsonl"
    long.write_text(long.read_text() + json.dumps({"prompt": "cat " * 99, "completion": "CAT"}) + "\n")
    recipe = recipe_of(tmp_path / "tasks", tmp_path / "run", rows_per_task=1)
    with pytest.raises(PromptTooLongError, match="at most 96 fit"):
        train_tree(recipe, host=host)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
