import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from weft.adapters import load, save, site_at
from weft.errors import BaseMismatchError, SaveError, ShapeError, WeightsError
from weft.types import Adapter, Factors


def adapter_of(*, rank: int = 2, dtype: torch.dtype = torch.float32, **values: object) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for path, n_in, n_out in (("model.layers.0.q_proj", 6, 4), ("model.layers.1.v_proj", 6, 3)):
        a_RI = torch.randn(rank, n_in, generator=generator).to(dtype)
        factors[site_at(path, n_in, n_out)] = Factors(
            a_RI, torch.randn(n_out, rank, generator=generator).to(dtype), 2.0
        )
    return Adapter(factors, **values)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_values_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = adapter_of(dtype=dtype)
    save(adapter, tmp_path / "x")
    again = load(tmp_path / "x")
    assert again.factors.keys() == adapter.factors.keys()
    for site, (a_RI, b_OR, scaling) in again.factors.items():
        assert a_RI.dtype == b_OR.dtype == dtype
        assert torch.equal(a_RI, adapter.factors[site].a_RI)
        assert torch.equal(b_OR, adapter.factors[site].b_OR)
        assert scaling == 2.0


def test_base_provenance_and_name_come_back(tmp_path: Path) -> None:
    told = {"seed": 3, "recipe": "räzept", "metrics": {"exact_match": 0.5}, "parents": ["a", "b"]}
    save(adapter_of(base="weft1-0123", provenance=told), tmp_path / "sort")
    again = load(tmp_path / "sort")
    assert (again.base, again.name, dict(again.provenance)) == ("weft1-0123", "sort", told)
    save(again, tmp_path / "copy")
    assert (
        bytes_of(tmp_path / "copy")["adapter_model.safetensors"]
        == bytes_of(tmp_path / "sort")["adapter_model.safetensors"]
    )


def test_base_is_taken_over_only_where_the_folder_names_none(tmp_path: Path) -> None:
    save(adapter_of(), tmp_path / "silent")
    save(adapter_of(base="weft1-aaaa"), tmp_path / "named")
    assert load(tmp_path / "silent", base="weft1-bbbb").base == "weft1-bbbb"
    assert load(tmp_path / "named", base="weft1-aaaa").base == "weft1-aaaa"
    with pytest.raises(BaseMismatchError, match=r"named belongs to base weft1-aaaa, not to weft1-bbbb"):
        load(tmp_path / "named", base="weft1-bbbb")


def test_config_of_an_adapter_made_here(tmp_path: Path) -> None:
    adapter = adapter_of(provenance={"base_model": "org/base"})
    odd = site_at("model.layers.2.q_proj", 6, 4)
    factors = {**adapter.factors, odd: Factors(torch.ones(3, 6), torch.ones(4, 3), 0.1)}
    save(dataclasses.replace(adapter, factors=factors), tmp_path / "x")
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "org/base"
    assert (config["r"], config["lora_alpha"]) == (2, 4)
    assert config["target_modules"] == [site.path for site in sorted(factors)]
    assert config["rank_pattern"] == {r"^model\.layers\.2\.q_proj": 3}
    assert config["alpha_pattern"] == {r"^model\.layers\.2\.q_proj": pytest.approx(0.3)}
    assert list(config) == sorted(config)
    assert load(tmp_path / "x").factors[odd].scaling == pytest.approx(0.1, rel=1e-15)


def test_patterns_match_their_own_module_only(tmp_path: Path) -> None:
    # As plain text each of these paths would also match the others.
    paths = ("h.1.c", "a.h.1.c", "h_1.c")
    factors = {
        site_at(path, 2, 2): Factors(torch.ones(rank, 2), torch.ones(2, rank), rank / 2)
        for rank, path in enumerate(paths, start=1)
    }
    save(Adapter(factors), tmp_path / "x")
    again = load(tmp_path / "x")
    assert {site: f.scaling for site, f in again.factors.items()} == {
        s: f.scaling for s, f in factors.items()
    }


def test_config_that_was_read_is_kept_while_it_tells_the_truth(tmp_path: Path) -> None:
    save(adapter_of(), tmp_path / "x")
    file = tmp_path / "x" / "adapter_config.json"
    # Both patterns match the second module, and PEFT takes the first: the order has to survive.
    config = json.loads(file.read_text()) | {
        "lora_dropout": 0.05,
        "target_modules": ["v_proj", "q_proj"],
        "use_rslora": True,
        "lora_alpha": 4,
        "alpha_pattern": {"v_proj": 6, ".*1.v_proj": 5},
        "base_model_name_or_path": "org/base",
    }
    file.write_text(json.dumps(config))
    adapter = load(tmp_path / "x")
    scalings = [adapter.factors[site].scaling for site in adapter.sites]
    assert scalings == [4 / math.sqrt(2), 6 / math.sqrt(2)]
    save(adapter, tmp_path / "kept")
    kept = json.loads((tmp_path / "kept" / "adapter_config.json").read_text())
    assert kept == config
    assert list(kept["alpha_pattern"]) == ["v_proj", ".*1.v_proj"]

    changed = {site: f._replace(scaling=3.0) for site, f in adapter.factors.items()}
    save(dataclasses.replace(adapter, factors=changed), tmp_path / "changed")
    rewritten = json.loads((tmp_path / "changed" / "adapter_config.json").read_text())
    assert rewritten["base_model_name_or_path"] == "org/base"
    assert (rewritten["lora_alpha"], rewritten["use_rslora"], rewritten["alpha_pattern"]) == (6, False, {})
    assert all(f.scaling == 3.0 for f in load(tmp_path / "changed").factors.values())


def test_config_with_few_keys_gets_pefts_defaults(tmp_path: Path) -> None:
    save(adapter_of(rank=8), tmp_path / "x")
    (tmp_path / "x" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert all(f.scaling == 1.0 for f in load(tmp_path / "x").factors.values())


def test_unknown_config_keys_are_warned_about_and_kept(tmp_path: Path) -> None:
    save(adapter_of(), tmp_path / "x")
    file = tmp_path / "x" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"novelty": 1}))
    with pytest.warns(UserWarning, match=r"adapter_config.json: ignoring keys unknown to PEFT: novelty"):
        adapter = load(tmp_path / "x")
    save(adapter, tmp_path / "y")
    assert json.loads((tmp_path / "y" / "adapter_config.json").read_text())["novelty"] == 1


def test_views_tied_and_trained_tensors_are_saved(tmp_path: Path) -> None:
    shared = nn.Parameter(torch.randn(4, 6))
    stack = torch.randn(2, 2, 3)
    factors = {
        site_at("h.0.x", 6, 3): Factors(shared[::2], stack[0].mT, 1.0),
        site_at("h.1.x", 6, 3): Factors(shared[::2], stack[1].mT, 1.0),
    }
    save(Adapter(factors), tmp_path / "x")
    for site, (a_RI, b_OR, _) in load(tmp_path / "x").factors.items():
        assert torch.equal(a_RI, factors[site].a_RI)
        assert torch.equal(b_OR, factors[site].b_OR)
        assert not a_RI.requires_grad


def test_a_loaded_adapter_does_not_depend_on_its_file(tmp_path: Path) -> None:
    save(adapter_of(), tmp_path / "x")
    adapter = load(tmp_path / "x")
    file = tmp_path / "x" / "adapter_model.safetensors"
    with file.open("r+b") as handle:
        handle.seek(0)
        handle.write(b"\xff" * file.stat().st_size)
    for site, factors in adapter.factors.items():
        assert torch.equal(factors.a_RI, adapter_of().factors[site].a_RI)


def test_the_file_is_sound_safetensors(tmp_path: Path) -> None:
    save(adapter_of(base="weft1-1", provenance={"b": 'é"', "a": 1}), tmp_path / "x")
    file = tmp_path / "x" / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as weights:
        assert weights.metadata()["format"] == "pt"
        assert set(weights.metadata()) == {"format", "weft_base", "weft_provenance"}
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0, "data should stay aligned"
    assert len(load_file(file)) == 4


def test_card_front_matter_and_provenance(tmp_path: Path) -> None:
    told = {"base_model": "org/base", "seed": 3, "description": "a\n```\nb"}
    save(adapter_of(base="weft1-1", name="sort", provenance=told), tmp_path / "x")
    text = (tmp_path / "x" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "org/base",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "weft"],
    }
    assert "# sort" in body
    assert "`weft1-1`" in body
    block = body.split("## Provenance\n\n")[1]
    assert all(line.startswith("    ") for line in block.splitlines())
    assert yaml.safe_load(block) == told


def test_saving_replaces_an_adapter_and_nothing_else(tmp_path: Path) -> None:
    save(adapter_of(rank=1), tmp_path / "x")
    save(adapter_of(rank=2), tmp_path / "x")
    assert load(tmp_path / "x").rank == 2
    assert [file.name for file in tmp_path.iterdir()] == ["x"], "no leftovers beside it"

    (tmp_path / "x" / "optimizer.pt").write_bytes(b"state")
    with pytest.raises(SaveError, match=r"holds other files \(optimizer.pt\)"):
        save(adapter_of(), tmp_path / "x")
    project = tmp_path / "project"
    project.mkdir()
    (project / "README.md").write_text("mine")
    with pytest.raises(SaveError, match=r"holds other files \(README.md\)"):
        save(adapter_of(), project)
    assert (project / "README.md").read_text() == "mine"
    with pytest.raises(SaveError, match="is a file"):
        save(adapter_of(), project / "README.md")


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, "changes no module"),
        ((torch.ones(2, 6), torch.ones(4, 3), 1.0), r"B is \(4, 3\), expected \[R, 6\] and \[4, R\]"),
        ((torch.ones(0, 6), torch.ones(4, 0), 1.0), r"A is \(0, 6\)"),
        ((torch.full((2, 6), torch.nan), torch.ones(4, 2), 1.0), "NaN or infinity"),
        ((torch.ones(2, 6), torch.full((4, 2), torch.inf), 1.0), "NaN or infinity"),
        ((torch.ones(2, 6), torch.ones(4, 2), math.nan), "NaN or infinity"),
        (
            (torch.ones(2, 6), torch.full((4, 2), 1e30), 1e9),
            "a scaling of 1e.09 makes torch.float32",
        ),
    ],
)
def test_broken_factors_are_not_saved(factors: object, message: str, tmp_path: Path) -> None:
    save(adapter_of(), tmp_path / "x")
    before = bytes_of(tmp_path / "x")
    broken = Adapter({site_at("h.0.q", 6, 4): Factors(*factors)} if factors else {})
    with pytest.raises((ShapeError, WeightsError), match=message):
        save(broken, tmp_path / "x")
    assert bytes_of(tmp_path / "x") == before


def test_save_pretrained_is_save(pico_bank, tmp_path: Path) -> None:
    adapter = pico_bank(1, 2)[0]
    save(adapter, tmp_path / "a")
    adapter.save_pretrained(tmp_path / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
