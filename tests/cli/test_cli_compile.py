"""`weft compile`: a sentence, and examples, in; a function out."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_cli import DESCRIPTIONS, Tiny

from weft.adapters import load
from weft.cli import main
from weft.hyper import HyperNetwork
from weft.tasks import Row, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    words = [a + b + c for a in "cd" for b in "aeu" for c in "bgt"]
    write_rows(path, [Row(word, word[::-1]) for word in words])
    return str(path)


def compiled(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], str]:
    code = main(["compile", *argv, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out), err


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["compile", *argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_description_alone_is_what_adapt_makes(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, _ = compiled(
        capsys, DESCRIPTIONS[0], "--with", tiny.hyper, "--base", tiny.base, "-o", str(tmp_path / "out")
    )
    assert (told["start"], told["name"]) == (tiny.hyper, "sort-the-letters")
    made, want = load(tmp_path / "out"), HyperNetwork.from_pretrained(tiny.hyper).adapt(DESCRIPTIONS[0])
    assert all(bool((made.factors[s].b_OR == want.factors[s].b_OR).all()) for s in want.sites)


def test_examples_train_it_on(
    tiny: Tiny, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--with", tiny.hyper, "--base", tiny.base, "--examples", rows, "--max-steps", "12"]
    told, _ = compiled(capsys, DESCRIPTIONS[1], *argv, "-o", str(tmp_path / "out"))
    assert told["examples"] + told["held out"] == 18
    assert told["held out"] > 0
    assert [score["who"] for score in told["scores"]] == [
        "base, told the description",
        "adapter from the description",
        "adapter after training",
    ]
    assert told["scores"][2]["loss"] < told["scores"][1]["loss"]
    made = load(tmp_path / "out")
    assert made.provenance["description"] == DESCRIPTIONS[1]
    assert made.provenance["start"] == tiny.hyper
    assert made.provenance["scores"] == told["scores"]
    assert made.provenance["compile"]["max_steps"] == 12
    assert made.base == tiny.fingerprint


def test_without_a_hypernetwork_it_starts_from_zero_and_says_so(
    tiny: Tiny, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--base", tiny.base, "--examples", rows, "--max-steps", "5", "--r", "2"]
    told, err = compiled(capsys, "reverse it", *argv, "-o", str(tmp_path / "out"))
    assert f"no hypernetwork for base {tiny.base}: training starts from zero" in err
    assert told["start"] == "zero"
    assert load(tmp_path / "out").rank == 2
    assert main(["generate", "cab", "--base", tiny.base, "--adapter", str(tmp_path / "out")]) in (0, 1)


def test_neither_hypernetwork_nor_examples(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, "reverse it", "--base", tiny.base, "-o", str(tmp_path / "out"))
    assert "no hypernetwork for base" in told
    assert "--examples" in told
    assert not (tmp_path / "out").exists()


def test_paraphrases_are_of_a_hypernetwork(
    tiny: Tiny, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--base", tiny.base, "--examples", rows, "--paraphrases", "3"]
    told = refused(capsys, "reverse it", *argv, "-o", str(tmp_path / "out"))
    assert "--paraphrases are for a hypernetwork" in told


def test_two_examples_are_too_few_to_hold_some_out(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "few.jsonl", [Row("cab", "bac")])
    argv = ["--base", tiny.base, "--examples", str(tmp_path / "few.jsonl"), "--max-steps", "2"]
    told, err = compiled(capsys, "reverse it", *argv, "-o", str(tmp_path / "out"))
    assert "too few examples to hold some out" in err
    assert (told["steps"], told["kept step"]) == (2, 2)
    assert "scores" not in told


def test_a_folder_with_other_things_is_told_before_training(
    tiny: Tiny, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert "mine.txt" in refused(capsys, "it", "--base", tiny.base, "--examples", rows, "-o", str(tmp_path))


def test_a_shipped_hypernetwork_is_found_by_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, _ = compiled(capsys, "sort the letters", "--base", "weft/letters", "-o", str(tmp_path / "out"))
    assert told["start"] == "weft/letters-t2l"


def test_a_rate_that_no_training_takes_and_a_hypernetwork_that_is_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["compile", "it", "-o", out, "--learning-rate", "1e9"]) == 2
    assert "Must be <= 1000" in capsys.readouterr().err
    assert "no hypernetwork folder at nowhere" in refused(capsys, "it", "--with", "nowhere", "-o", out)
