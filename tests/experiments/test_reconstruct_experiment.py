"""How much of a library one network keeps, on a tiny base whose adapters are random."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_training import EFFECTS, source, tiny_host, tokenizer, write_tasks

from weft.adapters import save
from weft.cli import main
from weft.errors import ConfigError
from weft.experiments.reconstruct.measure import Written, measure_reconstruction
from weft.experiments.reconstruct.page import reconstruct_page
from weft.experiments.reconstruct.recipe import ReconstructionRecipe
from weft.host import Host
from weft.types import Adapter, Factors


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reconstruct")
    write_tasks(folder / "tasks")
    tiny_host(folder / "tasks").module.save_pretrained(folder / "base")
    tokenizer(folder / "tasks").save_pretrained(folder / "base")
    host = Host.from_pretrained(folder / "base", dtype="float32")
    rng = torch.Generator().manual_seed(0)
    for name in EFFECTS:
        factors = {
            site: Factors(
                torch.randn(2, site.in_features, generator=rng),
                torch.randn(site.out_features, 2, generator=rng) / 10,
                0.5,
            )
            for site in host.sites
        }
        save(replace(Adapter(factors, base=host.fingerprint), name=name), folder / "library" / name)
    return folder


def values(root: Path, output: Path, /, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(root / "base"),
        "library": str(root / "library"),
        "data": source(root / "tasks"),
        "encoder": {"kind": "inputs"},
        "encoder_cache": str(output / "cache"),
        "networks": {
            name: {"head": {"kind": name}, "rank": 2, "latent": 32, "head_in": 32, "dropout": 0.0}
            for name in ("L", "P")
        },
        "counts": [2, 4],
        "steps": 20,
        "optimizer": {"learning_rate": 0.01},
        "max_new_tokens": 4,
        "output_dir": str(output / "runs"),
    } | changes


def test_every_network_cue_and_count_once(root: Path, tmp_path: Path) -> None:
    recipe = ReconstructionRecipe.model_validate(values(root, tmp_path))
    found = measure_reconstruction(recipe)
    assert [(one.count, one.network, one.cue) for one in found] == [
        (count, network, cue) for count in (2, 4) for network in "LP" for cue in ("text", "one-hot")
    ]
    assert all(one.error > 0 for one in found)
    assert all(one.unseen is None for one in found)  # these tasks keep no wordings
    assert len({one.parameters for one in found if one.cue == "text"}) == 2
    checkpoint = tmp_path / "runs" / "4-P-text" / "hypernetwork" / "model.safetensors"
    before = checkpoint.read_bytes()
    assert measure_reconstruction(recipe) == found
    assert checkpoint.read_bytes() == before


def test_the_page_says_which_goals_are_met(root: Path, tmp_path: Path) -> None:
    recipe = ReconstructionRecipe.model_validate(values(root, tmp_path))
    few = [Written("P", "text", 2, 9, 0.1, 0.2, None, 0.8, 8)]
    text = [
        Written(name, "text", 4, size, 0.1, right, None, 0.8, 8)
        for name, size, right in (("L", 100, 0.8), ("P", 10, 0.785), ("M", 11, 0.81), ("S", 5, 0.779))
    ]
    names = [Written("P", "one-hot", 4, 9, 0.1, 0.8, None, 0.8, 8)]
    page = reconstruct_page(recipe, few + text + names, picture="a.png", command="weft")
    assert "kept, 4 adapters, from descriptions: met by L, P, M." in page
    assert "P 1.5 below at 0.10 (met); M 1.0 above at 0.11 (missed); S 2.1 below at 0.05 (missed)." in page
    assert f"ends at 4 of the 8 adapters that `{recipe.library}` holds" in page
    page = reconstruct_page(recipe, few, picture="a.png", command="weft")
    assert "missed; the best is P with 0.250." in page
    assert "below L" not in page
    assert "Goal" not in reconstruct_page(recipe, names, picture="a.png", command="weft")


def test_names_for_some_networks_alone(root: Path, tmp_path: Path) -> None:
    recipe = ReconstructionRecipe.model_validate(values(root, tmp_path, counts=[2], one_hot=["P"]))
    assert [(one.network, one.cue) for one in measure_reconstruction(recipe)] == [
        ("L", "text"),
        ("P", "text"),
        ("P", "one-hot"),
    ]
    with pytest.raises(ConfigError, match="no network 'Q'"):
        measure_reconstruction(recipe.model_copy(update={"one_hot": ("Q",)}))


def test_more_adapters_than_there_are(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 adapters are asked for"):
        measure_reconstruction(ReconstructionRecipe.model_validate(values(root, tmp_path, counts=[5])))


def test_what_is_kept() -> None:
    one = Written("L", "text", 2, 10, 0.1, right=0.3, unseen=None, oracle=0.6, of=2)
    assert one.kept == pytest.approx(0.5)
    assert replace(one, oracle=0.0).kept == 0


def test_the_command_writes_page_values_and_picture(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.md"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values(root, tmp_path, output=str(output))))
    output.write_text("the whole one")
    assert main(["experiment", "reconstruct", str(recipe), "--quick"]) == 0
    assert output.read_text() == "the whole one"
    output = tmp_path / "page-quick.md"
    told = json.loads(output.with_suffix(".json").read_text())
    assert [(one["count"], one["network"], one["cue"]) for one in told["written"]] == [
        (2, "L", "text"),
        (2, "P", "text"),
    ]
    assert "--quick" in output.read_text()
    assert (tmp_path / "page-quick.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_is_named_as_a_folder_may_be(root: Path, tmp_path: Path) -> None:
    networks = {"../out": {"head": {"kind": "L"}, "rank": 2}}
    with pytest.raises(ValueError, match="a folder is called so"):
        ReconstructionRecipe.model_validate(values(root, tmp_path, networks=networks))
