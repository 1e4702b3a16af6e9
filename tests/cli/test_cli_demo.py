import json
from typing import Any

import pytest
from tiny_cli import DESCRIPTIONS, Tiny

from weft.cli import main
from weft.cli.demo import BUILT_IN, INPUTS, expected
from weft.files import embedded_folder
from weft.tasks.letters.operations import OPERATIONS, UNSEEN_PHRASES
from weft.tasks.letters.world import World

embedded = pytest.mark.skipif(
    not all((embedded_folder() / name).is_dir() for name in ("letters", "letters-t2l")),
    reason="the embedded models are not trained yet: models/letters and models/letters-t2l",
)


@pytest.fixture
def small(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models in place of the embedded ones."""
    monkeypatch.setattr("weft.cli.demo.BASE", tiny.base)
    monkeypatch.setattr("weft.cli.demo.HYPERNETWORK", tiny.hyper)


def answers(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    assert main(["demo", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_expected_answers_are_those_of_the_world() -> None:
    world = World(train_rows=1)
    for description, steps in BUILT_IN.items():
        name = "+".join("_".join([o, *({"*": "star"}.get(v, v) for v in p.values())]) for o, p in steps)
        for row in world.find(name).test:
            assert expected(description, row.prompt) == row.completion
    assert expected("something else", "cab") is None


def test_single_operations_are_worded_as_in_no_training_task() -> None:
    for description, steps in BUILT_IN.items():
        if len(steps) == 1:
            operation, parameters = OPERATIONS[steps[0][0]], steps[0][1]
            unseen = [p.format(s="the word", **parameters) for p in operation.phrases[-UNSEEN_PHRASES:]]
            assert description in [text.replace(" one letters", " letter") for text in unseen]


@pytest.mark.usefixtures("small")
def test_rows_equal_those_of_generate(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [part for text in DESCRIPTIONS for part in ("--describe", text)]
    rows = answers(capsys, *flags, "--input", "cab", "--input", "weft")
    assert [(row["description"], row["input"]) for row in rows] == [
        (description, text) for description in DESCRIPTIONS for text in ("cab", "weft")
    ]
    for row in rows:
        argv = ["generate", row["input"], "--base", tiny.base, "--max-new-tokens", "24"]
        assert main(argv) == 0
        assert capsys.readouterr().out == row["base"] + "\n"
        assert main([*argv, "--describe", row["description"], "--with", tiny.hyper]) == 0
        assert capsys.readouterr().out == row["adapted"] + "\n"
        assert row["expected"] is None


@pytest.mark.usefixtures("small")
def test_the_page_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["demo", "--describe", DESCRIPTIONS[0], "--describe", DESCRIPTIONS[1], "--input", "cab"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 100
    for words in (
        *DESCRIPTIONS,
        "base alone",
        "adapted",
        "weft demo --describe",
        "in one batch",
    ):
        assert words in " ".join(out.split())
    assert "expected" not in out


def test_an_empty_description_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--describe", " "]) == 1
    assert "description is empty" in capsys.readouterr().err


@embedded
def test_the_embedded_models_follow_most_of_the_built_in_descriptions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = answers(capsys)
    assert len(rows) == len(BUILT_IN) * len(INPUTS)
    assert sum(row["adapted"] == row["expected"] for row in rows) / len(rows) >= 0.7
    assert sum(row["base"] == row["expected"] for row in rows) / len(rows) <= 0.3


@embedded
def test_the_page_without_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert all(description in out for description in BUILT_IN)
    assert "right" in out
