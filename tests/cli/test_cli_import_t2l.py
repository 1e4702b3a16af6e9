import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from weft.cli import main
from weft.embed import OneHot
from weft.hyper import HyperNetwork

RELEASED = Path(__file__).parents[1] / "hyper" / "released" / "M"


def test_writes_a_hypernetwork_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "released"
    folder.mkdir()
    for name in ("args.yaml", "adapter_config.json"):
        (folder / name).write_bytes((RELEASED / name).read_bytes())
    tensors = load_file(RELEASED / "state.safetensors")
    order = json.loads((RELEASED / "order.json").read_text())
    torch.save({name: tensors[name] for name in order}, folder / "hypermod.pt")
    asked = []

    def encoder(config: dict[str, str]) -> OneHot:
        asked.append(config)
        return OneHot([str(i) for i in range(12)])

    monkeypatch.setattr("weft.hyper.import_t2l.build_encoder", encoder)
    argv = ["import-t2l", str(folder), "-o", str(tmp_path / "ours"), "--json"]
    assert main(argv) == 0
    assert asked == [{"kind": "first_token", "name": "Alibaba-NLP/gte-large-en-v1.5"}]
    told = json.loads(capsys.readouterr().out)
    assert (told["size"], told["trained by"], told["rank"], told["sites"]) == ("M", "sft", 2, 4)
    assert HyperNetwork.from_pretrained(tmp_path / "ours").sites[0].path == "model.layers.0.self_attn.q_proj"
    assert main([*argv, "--encoder", "mine/"]) == 0
    assert asked[-1]["name"] == "mine/"


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-t2l", str(tmp_path), "-o", str(tmp_path / "ours")]) == 1
    assert "args.yaml" in capsys.readouterr().err
