import io
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_cli import DESCRIPTIONS, Tiny

from weft.cli import main
from weft.cli.chat import _COMMANDS


def talk(
    lines: list[str], *argv: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[list[str], list[str]]:
    """Answers, and lines of errors."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", *argv, "--max-new-tokens", "8"]) == 0
    out, err = capsys.readouterr()
    return [line.strip() for line in out.split("\n")[:-1]], err.splitlines()


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["generate", *argv, "--max-new-tokens", "8"]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def test_adapters_come_and_go(
    tiny: Tiny, adapter: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = said(capsys, "cab", "--base", tiny.base)
    sort = said(capsys, "cab", "--adapter", adapter)
    reverse = said(capsys, "cab", "--describe", DESCRIPTIONS[1], "--with", tiny.hyper)
    assert len({base, sort, reverse}) == 3
    lines = ["cab", f"/adapter {adapter}", "cab", "", f"/describe {DESCRIPTIONS[1]}", "cab", "/base", "cab"]
    answers, errors = talk(
        [*lines, "/quit", "cab"],
        "--base",
        tiny.base,
        "--with",
        tiny.hyper,
        monkeypatch=monkeypatch,
        capsys=capsys,
    )
    assert answers == [base, sort, reverse, base]
    assert errors == []


def test_a_bad_line_does_not_end_the_talk(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["/adaptor x", "/adapter nowhere", "/describe ", "x" * 100, "/adapter", "cab"]
    answers, errors = talk(
        lines, "--base", tiny.base, "--with", tiny.hyper, monkeypatch=monkeypatch, capsys=capsys
    )
    assert answers == [said(capsys, "cab", "--base", tiny.base)]
    assert [line[:6] for line in errors] == ["weft: "] * 5
    assert "did you mean /adapter?" in errors[0]
    assert "nowhere" in errors[1]
    assert "description is empty" in errors[2]
    assert "tokens" in errors[3]
    assert "needs the folder" in errors[4]


def test_an_adapter_that_brings_base_weights_of_its_own_is_refused(
    tiny: Tiny,
    adapter: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    brings = shutil.copytree(adapter, tmp_path / "brings")
    file = brings / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.lm_head.weight": torch.zeros(2, 2)}, file)
    answers, errors = talk(
        [f"/adapter {brings}", "cab"], "--base", tiny.base, monkeypatch=monkeypatch, capsys=capsys
    )
    assert answers == [said(capsys, "cab", "--base", tiny.base)]
    assert "lm_head.weight is not the base's own weight" in errors[0]


def test_history(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    alone, _ = talk(
        ["cab", "cab"], "--base", tiny.base, "--no-history", monkeypatch=monkeypatch, capsys=capsys
    )
    assert alone[0] == alone[1]
    flags = ["--base", tiny.base]
    told, _ = talk(["cab", "cab", "/base", "cab"], *flags, monkeypatch=monkeypatch, capsys=capsys)
    assert told[0] == told[2] == alone[0]
    assert told[1] != told[0]


def test_help_names_every_command(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, _ = talk(["/help"], "--base", tiny.base, monkeypatch=monkeypatch, capsys=capsys)
    assert [line.split()[0] for line in shown] == list(_COMMANDS)
