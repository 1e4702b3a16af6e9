"""`weft generate` under a tree of adapters, on one device or several."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_cli import Tiny

from tiny_models import make_bank
from weft.cli import main
from weft.engine import Engine
from weft.host import Host
from weft.route import Tree, TreeGate, full, place_leaves, save_tree
from weft.tasks import render_prompt

PROMPTS = ("sort cab", "reverse dabc")


@pytest.fixture(scope="module")
def host(tiny: Tiny) -> Host:
    return Host.from_pretrained(tiny.base)


@pytest.fixture(scope="module")
def tree(host: Host) -> Tree:
    leaves = replace(make_bank(host.sites, 4, 2, scale=0.4), base=host.fingerprint)
    return Tree(leaves, TreeGate(full(2), 32).eval(), make_bank(host.sites, 1, 2, seed=1))


@pytest.fixture(scope="module")
def folder(tree: Tree, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("grown") / "tree"
    save_tree(tree, path, provenance={"base_model": tiny.base})
    return str(path)


@pytest.mark.parametrize("devices", [(), ("cpu",), ("cpu", "cpu", "cpu")])
def test_answers_are_those_of_the_tree(
    host: Host, tree: Tree, folder: str, devices: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--leaf-devices", *devices] if devices else []
    argv = ["generate", *PROMPTS, "--tree", folder, *flags, "--json", "--max-new-tokens", "6"]
    assert main(argv) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tree"], told["leaf_devices"]) == (folder, list(devices))
    engine = Engine(host)
    prompts = [render_prompt(engine.tokenizer, text) for text in PROMPTS]
    mixture = place_leaves(tree, devices) if devices else tree.mixture
    want = engine.generate(prompts, mixture=mixture, max_new_tokens=6)
    assert [result["text"] for result in told["results"]] == want
    assert want != engine.generate(prompts, max_new_tokens=6)


def test_what_is_refused(
    tiny: Tiny, folder: str, adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*argv: str) -> str:
        code = main(["generate", "cab", *argv])
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (1, "", 1)
        return err

    assert "give --tree too" in refused("--leaf-devices", "cpu")
    assert "no tree but of kind adapter" in refused("--tree", adapter, "--leaf-devices", "cpu")
    assert "no tree folder at" in refused("--tree", str(tmp_path / "nothing"))
    # A base that is not there would be told if the base were read first.
    away = ("--tree", folder, "--base", str(tmp_path / "no-base"), "--leaf-devices")
    assert "5 leaf devices for a tree with 4 leaves" in refused(*away, *["cpu"] * 5)
    assert "leaf device gpu cannot be used" in refused(*away, "cpu", "gpu")
    count = torch.cuda.device_count()
    assert f"leaf device cuda:{count} cannot be used" in refused(*away, f"cuda:{count}")
    assert "belongs to base" in refused("--tree", folder, "--base", tiny.other_base)
