import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_models import make_bank
from weft.adapters import cosine, load, save, site_at
from weft.cli import main
from weft.types import Adapter, Factors

SITES = (site_at("model.layers.0.self_attn.q_proj", 8, 8), site_at("model.layers.1.mlp.up_proj", 8, 12))
WORDS = ("sort the letters", "reverse the string", "sort the string", "count the vowels")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    bank = make_bank(SITES, len(WORDS), 2)
    for k, text in enumerate(WORDS):
        told = {"description": text, "base_model": "weft/letters"}
        save(replace(bank[k], name=f"task-{k}", provenance=told), tmp_path / "library" / f"task-{k}")
    return tmp_path / "library"


def test_picture_and_numbers(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", str(library), "-o", str(tmp_path / "out" / "m.png"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "m.json").read_text())
    assert (tmp_path / "out" / "m.png").read_bytes()[:4] == b"\x89PNG"
    assert (printed["by"], printed["base"]) == ("adapter", "weft/letters")
    assert [adapter["name"] for adapter in printed["adapters"]] == [f"task-{k}" for k in range(4)]
    nearest = printed["adapters"][0]["nearest"]
    assert len(nearest) == 3
    for found in nearest:
        wanted = cosine(load(library / "task-0"), load(library / found["name"]))
        assert found["cosine"] == pytest.approx(wanted, abs=1e-9)


def test_by_description(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.png"
    assert main(["map", str(library), "--by", "description", "-o", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["adapters"][0]["nearest"][0]["name"] == "task-2"


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["map", *argv]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_wrong_libraries_are_one_line(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.png"
    assert "no adapter folders in" in failed(capsys, str(tmp_path / "none"), "-o", str(out))
    assert "should end in .png" in failed(capsys, str(library), "-o", str(tmp_path / "m.gif"))

    one = tmp_path / "one"
    save(load(library / "task-0"), one / "a")
    assert "at least two adapters" in failed(capsys, str(one), "-o", str(out))
    save(load(library / "task-0"), one / "b")
    assert "all 2 adapters are equal" in failed(capsys, str(one), "-o", str(out))

    factors = {site: Factors(torch.ones(1, 8), torch.zeros(site.out_features, 1), 1.0) for site in SITES}
    save(Adapter(factors, name="zero"), library / "zero")
    assert "zero changes nothing" in failed(capsys, str(library), "-o", str(out))
    by = ("--by", "description")
    assert "1 adapters have no description, zero is one" in failed(capsys, str(library), "-o", str(out), *by)
    for name in ("p", "q"):
        save(replace(load(library / "task-0"), base=f"weft1-{name}"), tmp_path / "bases" / name)
    assert "different bases" in failed(capsys, str(tmp_path / "bases"), "-o", str(out))
    assert not out.exists()
