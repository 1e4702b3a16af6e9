"""A description for any adapter: what it is not about stays as it was, to the byte."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_models import make_bank, make_llama
from weft.adapters import describe, descriptions_of, load, save, site_at
from weft.errors import ConfigError, MissingFileError
from weft.host import Host, short_names
from weft.merging import merge
from weft.types import Adapter, Factors

SITE = site_at("model.layers.0.q_proj", 6, 4)


def made(folder: Path, **provenance: object) -> Path:
    torch.manual_seed(0)
    factors = {SITE: Factors(torch.randn(2, 6), torch.randn(4, 2), 0.5)}
    save(Adapter(factors, name=folder.name, provenance=provenance), folder)
    return folder


def test_an_adapter_of_ours(tmp_path: Path) -> None:
    folder = made(tmp_path / "x", seed=3, description="old")
    config = (folder / "adapter_config.json").read_bytes()
    before = load_file(folder / "adapter_model.safetensors")
    describe(folder, ["reverse the word"])
    adapter = load(folder)
    assert adapter.provenance == {"seed": 3, "description": "reverse the word"}
    assert "description: reverse the word" in (folder / "README.md").read_text()
    assert (folder / "adapter_config.json").read_bytes() == config
    after = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before.keys() | after.keys())
    # As if it had been saved so.
    save(adapter, tmp_path / "x")
    assert descriptions_of(describe(folder, ["one", "two"])) == ("one", "two")
    assert load(folder).provenance["description"] == ["one", "two"]


def test_a_file_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process puts a file with a longer header there: what is written is still whole."""
    folder = made(tmp_path / "x", description="old")
    read_bytes = Path.read_bytes

    def after_another(file: Path) -> bytes:
        if file.suffix == ".safetensors":
            monkeypatch.undo()
            made(folder, description="old", note="longer " * 50)
        return read_bytes(file)

    monkeypatch.setattr(Path, "read_bytes", after_another)
    describe(folder, ["new"])
    assert descriptions_of(load(folder)) == ("new",)


def test_a_foreign_adapter_keeps_its_card_and_its_other_files(tmp_path: Path) -> None:
    folder = made(tmp_path / "x")
    weights = folder / "adapter_model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt", "theirs": "kept"})
    (folder / "README.md").write_text("# Theirs")
    (folder / "optimizer.pt").write_text("state")
    describe(folder, ["reverse the word"])
    assert descriptions_of(load(folder)) == ("reverse the word",)
    assert (folder / "README.md").read_text() == "# Theirs"
    assert b'"theirs":"kept"' in weights.read_bytes()


def test_a_merge_keeps_the_descriptions_of_its_parents(tmp_path: Path) -> None:
    a = load(made(tmp_path / "a", description="reverse"))
    b = load(made(tmp_path / "b", description=["sort", "reverse"]))
    none = load(made(tmp_path / "none"))
    assert descriptions_of(merge("linear", [a, b])) == ("reverse", "sort")
    assert descriptions_of(merge("ties", [a, none], density=0.5)) == ("reverse",)
    assert "description" not in merge("svd", [none, none]).provenance


@pytest.mark.parametrize("texts", [[], [""], ["good", " "]])
def test_no_description(texts: list[str], tmp_path: Path) -> None:
    folder = made(tmp_path / "x")
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="this one is empty"):
        describe(folder, texts)
    with pytest.raises(MissingFileError):
        describe(tmp_path / "nowhere", ["x"])
    assert (folder / "adapter_model.safetensors").read_bytes() == before


def test_what_could_not_be_saved_again_is_not_loaded(tmp_path: Path) -> None:
    folder = made(tmp_path / "x")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    deep = "[" * 60 + "]" * 60
    for told, message in (
        ('{"a": NaN}', "NaN is no JSON value"),
        ('{"a": "\\ud83d"}', "surrogates not allowed"),
        ('{"a": 1, "a": 2}', "appears twice"),
        ('{"a": ' + deep + "}", "nested more than 32 deep"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested more than 32 deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        (json.dumps({"a": "x" * (2 << 20)}), "at most 1048576 are kept"),
    ):
        save_file(tensors, file, {"weft_provenance": told})
        with pytest.raises(ValueError, match=message) as caught:
            load(folder)
        assert len(str(caught.value)) < 500


def test_modules_are_named_as_peft_names_them(tmp_path: Path) -> None:
    host = Host(make_llama())
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert short_names(host.sites, host.module) == names
    some = [site for site in host.sites if site.module == "q_proj" or "0.mlp.up_proj" in site.path]
    assert short_names(some, host.module) == ["model.layers.0.mlp.up_proj", "q_proj"]
    bank = make_bank(tuple(some), 2, 3)
    told = {"target_modules": short_names(some, host.module)}
    made = [replace(bank[k], provenance=told) for k in range(2)]
    for adapter in (*made, merge("linear", made)):
        save(adapter, tmp_path / "x")
        config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
        assert config["target_modules"] == ["model.layers.0.mlp.up_proj", "q_proj"]
        assert load(tmp_path / "x").factors.keys() == set(some)
    # Names that do not fit the sites are not believed.
    for wrong in (["q_proj"], ["q_proj", "up_proj", "v_proj"], "q_proj", [3]):
        save(replace(made[0], provenance={"target_modules": wrong}), tmp_path / "x")
        config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
        assert config["target_modules"] == sorted(site.path for site in some)


def test_the_cache_of_the_hub_stays_as_it_came(tmp_path: Path) -> None:
    folder = made(tmp_path / "snapshots" / "x")
    blob, file = tmp_path / "blobs" / "0a1b", folder / "adapter_model.safetensors"
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    before = blob.read_bytes()
    with pytest.raises(ConfigError, match="in the Hub's cache, which stays as it came"):
        describe(folder, ["reverse it"])
    assert blob.read_bytes() == before
