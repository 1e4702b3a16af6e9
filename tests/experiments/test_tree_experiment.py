"""The comparison of trees: who takes part, what is counted, going on where it stopped; the top-1 mixture."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_training import source, tiny_host, write_tasks

from tiny_models import make_bank
from weft.errors import ConfigError
from weft.experiments.tree import measure
from weft.experiments.tree.measure import compare_trees
from weft.experiments.tree.page import tree_page
from weft.experiments.tree.recipe import TreeComparison
from weft.host import Host
from weft.plot.tree import draw_trees
from weft.route import XLora
from weft.types import Mixture, Term


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def host(tasks: Path) -> Host:
    return tiny_host(tasks)


def comparison(tasks: Path, output: Path, **changes: Any) -> TreeComparison:
    recipe = {
        "run": {"output_dir": str(output), "max_steps": 4, "logging_steps": 1},
        "base": "tiny",
        "data": source(tasks),
        "tasks_per_batch": 4,
        "r": 2,
        "lora_alpha": 4,
        "layers": "all",
        "hard_ratio": 0.25,
    }
    values = {"corpora": {"toy": recipe | changes.pop("recipe", {})}, "depths": (1, 2), "experts": 4}
    return TreeComparison.model_validate(values | changes)


def test_a_comparison(tasks: Path, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "load_base", lambda *_, **__: host)
    asked = comparison(tasks, tmp_path, larger={"toy": {"twin": "other"}})
    told: list[str] = []
    outcomes = compare_trees(asked, told.append)
    by_name = {outcome.name: outcome for outcome in outcomes}
    mixtures, trees = ["SMEAR 4", "top-1 of 4"], ["tree depth 1", "tree depth 2"]
    assert list(by_name) == ["LoRA r 2", "LoRA r 8", "LoRA r 2 on twin", *mixtures, *trees]
    assert told == [f"toy, seed 0: {name}" for name in by_name]

    # Counted by hand: one LoRA of rank 2, what holds it, and the nodes on the way (two layers of width 32).
    sites = sum(site.in_features + site.out_features for site in host.sites)
    linear = sum(
        p.numel() for name, p in host.module.named_parameters() if p.dim() == 2 and "embed" not in name
    )
    linear += host.module.lm_head.weight.numel() if "lm_head.weight" not in host.module.state_dict() else 0
    deep, lora, wide = by_name["tree depth 2"], by_name["LoRA r 2"], by_name["LoRA r 8"]
    assert (lora.active, wide.active, lora.total) == (2 * sites, 8 * sites, 2 * sites)
    assert deep.active == 2 * sites + 2 * 2 * 33
    assert deep.total == 4 * 2 * sites + 2 * 3 * 33
    assert by_name["top-1 of 4"].active == 2 * sites + 2 * 4 * 33
    assert lora.base == linear
    computed = 0.25 * deep.active + 0.75 * deep.total
    assert deep.flops == pytest.approx(deep.tokens * (4 * linear + 6 * computed))
    assert len({outcome.tokens for outcome in outcomes}) == len({o.base_loss for o in outcomes[:2]}) == 1

    page = tree_page(asked, outcomes, picture="tree.png", command="weft")
    for outcome in outcomes:
        assert f"| {outcome.name} | {math.exp(outcome.loss):.3f} | {outcome.loss:.4f} |" in page
    assert "One seed (0)" in page
    twin = by_name["LoRA r 2 on twin"]
    assert (twin.kind, twin.loss) == ("larger", lora.loss)  # the same base under another name
    for name in ("base", "twin"):
        assert f"| {name} | {math.exp(twin.base_loss):.3f} | {twin.base_loss:.4f} |" in page
    assert json.loads(json.dumps(asdict(outcomes[0])))["name"] == "LoRA r 2"
    draw_trees(outcomes, tmp_path / "tree.png")
    assert (tmp_path / "tree.png").read_bytes()[1:4] == b"PNG"

    # What is finished is not trained again; what is missing is, to the same end.
    (tmp_path / "toy" / "tree-depth-1-0" / "outcome.json").unlink()
    told.clear()
    again = compare_trees(asked, told.append)
    assert told == ["toy, seed 0: tree depth 1"]
    assert [o.loss for o in again] == [o.loss for o in outcomes]


def test_a_larger_base_must_read_the_same_tokens(
    tasks: Path, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "load_base", lambda *_, **__: host)
    hashes = iter(["one", "other"])
    monkeypatch.setattr(measure, "_hash", lambda _: next(hashes))
    with pytest.raises(ConfigError, match="other reads other tokens than tiny"):
        compare_trees(comparison(tasks, tmp_path, larger={"toy": {"twin": "other"}}))


def test_bad_comparisons(tasks: Path, tmp_path: Path) -> None:
    for changes in (
        {"corpora": {}},
        {"depths": (0,)},
        {"seeds": ()},
        {"experts": 1},
        {"recipe": {"scope": "sequence"}},
        {"recipe": {"shared_r": 2}},
        {"larger": {"other": {"twin": "other"}}},
        {"larger": {"toy": {"../twin": "other"}}},
    ):
        with pytest.raises(ValidationError):
            comparison(tasks, tmp_path, **changes)
    with pytest.raises(ValidationError, match="a folder is called so"):
        TreeComparison.model_validate({"corpora": {"../x": comparison(tasks, tmp_path).corpora["toy"]}})


def test_the_top_1_mixture_equals_a_loop(host: Host) -> None:
    sites = tuple(site for site in host.sites if site.layer == 0 and site.module in ("q_proj", "k_proj"))
    bank = make_bank(sites, 3, 2)
    gate = XLora(3, 32, layers=(0,), top_k=1, norm_topk_prob=False, seed=0)
    x_BTH = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)) * 3
    layer = host.module.get_submodule(sites[0].path)
    with host.running(Mixture((Term(bank, gate),)), embeddings_BTH=x_BTH):
        got = layer(x_BTH)
    weight_KH = gate.weight_LKH[0].double()
    for b in range(2):
        for t in range(5):
            x = x_BTH[b, t].double()
            p = (weight_KH @ (x / x.square().mean().sqrt()) + gate.bias_LK[0]).softmax(0)
            k = int(p.argmax())
            change = p[k] * (bank.b[sites[0]][k].double() @ (bank.a[sites[0]][k].double() @ x))
            want = layer.weight.double() @ x + change
            torch.testing.assert_close(got[b, t].double(), want, atol=1e-5, rtol=1e-4)
    got.sum().backward()
    assert gate.weight_LKH.grad.abs().max() > 0
