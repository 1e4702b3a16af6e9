import json
import re
import shutil
from pathlib import Path

import gguf
import pytest
from safetensors.torch import load_file, save_file

from weft.adapters import load
from weft.cli import main
from weft.files import embedded_folder


def test_an_adapter_that_ships_with_weft_goes_out_for_both(tmp_path: Path) -> None:
    name = "weft/letters-adapters/reverse"
    assert main(["export", name, "--gguf", str(tmp_path / "a.gguf")]) == 0
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert len(reader.tensors) == 2 * len(load(name).sites)
    assert main(["export", name, "--vllm", str(tmp_path / "out"), "--max-lora-rank", "8"]) == 0
    assert load(tmp_path / "out").rank == load(name).rank


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "say what for"),
        (["--gguf", "a.gguf", "--vllm", "out"], "say what for"),
        (["--vllm", "out", "--max-lora-rank", "1"], "--max-lora-rank 8"),
        (["--gguf", "a.gguf", "--base", "weft/nothing"], "no model weft/nothing"),
    ],
)
def test_what_cannot_be_written_is_told_in_one_line(
    flags: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "weft/letters-adapters/reverse", *flags]) == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("always:left out adapter")
def test_what_stands_on_other_base_weights_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("reverse", "sort"):
        shutil.copytree(embedded_folder() / "letters-adapters" / name, tmp_path / "library" / name)
    file, key = Path("library/reverse/adapter_model.safetensors"), "model.embed_tokens.weight"
    tensors, flags = load_file(file), ["--base", "weft/letters"]
    copy = load_file(embedded_folder() / "letters/model.safetensors")[key]
    for told, code in ((copy, 0), (2 * copy, 1)):
        save_file(tensors | {f"base_model.model.{key}": told}, file)
        for kind in ("--gguf", "--vllm"):
            assert main(["export", "library/reverse", kind, f"out{code}{kind}", *flags]) == code
        both = ["library/reverse", "library/sort"]
        assert main(["merge", "linear", *both, "-o", f"out{code}", *flags]) == code
        assert ("embed_tokens.weight is not the base's own weight" in capsys.readouterr().err) == bool(code)
    assert not list(tmp_path.glob("out1*"))
    assert main(["generate", "cab", "--library", "library", "--router", "arrow"]) == 0
    assert "left out adapter reverse" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_position_embeddings": "128"}, "no config of base base: .*expected int, got str"),
        ({"hidden_act": "odd"}, r"can be built from the config of a llama \(KeyError: 'odd'\)"),
        ({"model_type": "llava"}, "can be built from the config of a llava .*Unrecognized configuration"),
    ],
)
def test_a_base_that_cannot_be_built_is_told_in_one_line(
    values: dict[str, object],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    config = json.loads((embedded_folder() / "letters/config.json").read_text())
    Path("base").mkdir()
    Path("base/config.json").write_text(json.dumps(config | values))
    name = "weft/letters-adapters/reverse"
    assert main(["export", name, "--vllm", "out", "--base", "base"]) == 1
    assert re.search(told, capsys.readouterr().err)
