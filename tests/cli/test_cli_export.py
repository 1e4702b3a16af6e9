from pathlib import Path

import gguf
import pytest

from weft.adapters import load
from weft.cli import main


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
