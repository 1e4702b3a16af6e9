"""The script of one page runs, learns, and leaves what PEFT reads."""

import importlib.util
from pathlib import Path

import pytest
from peft import PeftConfig

import weft
from weft.tasks import Row, write_rows

_FILE = Path(__file__).parents[1] / "examples" / "train_lora.py"


def main(*argv: str) -> dict[str, float]:
    spec = importlib.util.spec_from_file_location("train_lora", _FILE)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main(list(argv))


def test_a_lora_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(f"{x}{y}", "ab") for x in "abcdefgh" for y in "abcd"]
    write_rows(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    found = main(str(tmp_path / "rows.jsonl"), str(out), "--max-steps", "30", "--learning-rate", "0.01")
    assert found["after"] < 0.1 * found["before"]
    assert "'hd' -> 'ab'; the row says 'ab'" in capsys.readouterr().out
    assert PeftConfig.from_pretrained(out).r == weft.load(out).rank == 8


def test_it_is_one_page() -> None:
    assert len(_FILE.read_text().splitlines()) < 200
