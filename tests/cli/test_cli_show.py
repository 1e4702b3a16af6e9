import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cli import DESCRIPTIONS, Tiny

from tiny_models import make_bank
from weft.adapters import load, save
from weft.cli import main
from weft.embed import OneHot
from weft.host import Host
from weft.route import Classifier, Tree, TreeGate, full, save_tree
from weft.tasks import Row, Task, save_task


def shown(capsys: pytest.CaptureFixture[str], what: str) -> dict[str, Any]:
    assert main(["show", what, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["show", what]) == 0
    assert facts["kind"] in capsys.readouterr().out
    return facts


def test_an_adapter(tiny: Tiny, adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(capsys, adapter)
    assert facts["kind"] == "adapter"
    assert (facts["base"], facts["rank"], facts["sites"]) == (tiny.fingerprint, 2, 14)
    assert facts["description"] == DESCRIPTIONS[0]
    assert "q_proj" in facts["modules"]


def test_an_adapter_of_others_names_its_base(
    adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT writes a name and no fingerprint."""
    of_peft = replace(load(adapter), base="", peft_config={}, provenance={"base_model": "someone/llama"})
    save(of_peft, tmp_path / "adapters/a")
    assert shown(capsys, str(tmp_path / "adapters/a"))["base"] == "someone/llama"
    assert main(["list", "adapters", str(tmp_path / "adapters"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["base"] == "someone/llama"


def test_a_folder_of_adapters(adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, str(Path(adapter).parent)) == {"kind": "1 adapters", "names": ["sort"]}


def test_a_hypernetwork(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(capsys, tiny.hyper)
    assert (facts["kind"], facts["name"], facts["base"]) == ("hypernetwork", "tiny-t2l", tiny.fingerprint)
    assert (facts["network.rank"], facts["encoder.kind"], facts["sites"]) == (2, "onehot", 14)


def test_a_tree(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaves = make_bank(Host.from_pretrained(tiny.base).sites, 2, 2)
    save_tree(Tree(leaves, TreeGate(full(1), 8)), tmp_path / "tree", provenance={"seed": 3})
    facts = shown(capsys, str(tmp_path / "tree"))
    assert (facts["kind"], facts["leaves"], facts["shared"]) == ("tree", ["0", "1"], False)
    assert (facts["sites"], facts["seed"]) == (14, 3)


def test_a_router(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    router = Classifier(OneHot(("x", "y")), ["first", "second"], torch.ones(2, 2), torch.zeros(2))
    router.save_pretrained(tmp_path / "router", base="weft1-0", provenance={"seed": 3})
    facts = shown(capsys, str(tmp_path / "router"))
    assert (facts["kind"], facts["base"], facts["adapters"]) == ("classifier", "weft1-0", ["first", "second"])
    assert facts["seed"] == 3


def test_a_base(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(capsys, tiny.base)
    assert (facts["kind"], facts["fingerprint"], facts["window"]) == ("base", tiny.fingerprint, 64)
    module = Host.from_pretrained(tiny.base).module
    assert facts["parameters"] == sum(parameter.numel() for parameter in module.parameters())


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0}\n{"step": 10, "margin": 0.5}\n')
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "model").mkdir()
    facts = shown(capsys, str(tmp_path))
    assert facts == {
        "kind": "run",
        "recipe": str(tmp_path / "config.yaml"),
        "step": 10,
        "loss": 2.0,
        "margin": 0.5,
        "checkpoints": ["checkpoint-10"],
        "holds": ["model"],
    }


def test_a_task_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(capsys, "reverse+first_two")
    assert (facts["kind"], facts["category"]) == ("task", "pair")
    prompt, answer = facts["for example"][0].split(" -> ")
    assert answer == prompt[::-1][:2]


def test_a_task_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_task(Task(name="double", descriptions=("double it",), train=(Row("a", "aa"),)), tmp_path / "double")
    facts = shown(capsys, str(tmp_path / "double"))
    assert (facts["name"], facts["descriptions"], facts["for example"]) == (
        "double",
        ["double it"],
        ["a -> aa"],
    )


def test_what_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == 1
    assert "holds no adapter" in capsys.readouterr().err
    assert main(["show", "revers"]) == 1
    assert "revers is no folder" in capsys.readouterr().err
    assert main(["show", "weft/leters"]) == 1
    assert "no model" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["[]", "5", '{"provenance": []}', '{"provenance": {"base_model": 5}}'])
def test_a_config_of_nothing(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(config)
    assert main(["show", str(tmp_path)]) == 1
    assert "holds no adapter" in capsys.readouterr().err
    assert main(["compile", "sort it", "--with", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "does not name its base" in capsys.readouterr().err


def test_a_merge_in_few_lines(adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number for each site would be a page."""
    errors = {f"model.layers.{k}.q_proj": k / 100 for k in range(60)}
    told = {"kind": "mine", "truncation_error": {"total": 0.5, "sites": errors}, "metrics": {"loss": 1.0}}
    save(replace(load(adapter), provenance=told), tmp_path / "merged")
    assert main(["show", str(tmp_path / "merged")]) == 0
    shown = capsys.readouterr().out
    assert "60 numbers from 0 to 0.59" in shown
    assert len(shown.splitlines()) < 20
    assert main(["show", str(tmp_path / "merged"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["truncation_error.sites.model.layers.59.q_proj"] == 0.59
    assert facts["kind"] == "adapter", "what a card says does not hide what is"
