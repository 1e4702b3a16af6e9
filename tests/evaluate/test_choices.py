"""Multiple choice by likelihood: against sums of log-probabilities made by hand, and on the command line."""

import json
import math
from pathlib import Path

import pytest
import torch

from weft.cli import main
from weft.engine import Engine
from weft.errors import ConfigError
from weft.evaluate.choices import choose
from weft.host import Host
from weft.tasks import Row, read_rows, render, write_rows

ROWS = [
    Row("cab", "bac", choices=("cab", "bac", "dodo")),
    Row("dog", "god", choices=("god", "dog")),
    Row("planet", "tenalp", choices=("p", "tenalp")),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Host.from_pretrained("weft/letters"))


def by_hand(engine: Engine, row: Row, choice: str) -> float:
    """The log-likelihood of an answer and its end, one forward."""
    encoded = render(engine.tokenizer, Row(row.prompt, choice))
    logits_TV = engine.host(torch.tensor([encoded.ids])).logits[0].float().log_softmax(-1)
    start = len(encoded.prompt_ids)
    return sum(float(logits_TV[start + i - 1, token]) for i, token in enumerate(encoded.completion_ids))


def test_the_likeliest_choice_is_chosen(engine: Engine) -> None:
    report = choose(engine, ROWS, None)
    scores = [{choice: by_hand(engine, row, choice) for choice in row.choices} for row in ROWS]
    chosen = tuple(max(told, key=lambda choice, told=told: told[choice]) for told in scores)
    per_character = [max(told, key=lambda c, told=told: told[c] / len(c)) for told in scores]
    assert report.chosen == chosen
    pairs = list(zip(ROWS, chosen, per_character, strict=True))
    assert report.accuracy == pytest.approx(sum(c == row.completion for row, c, _ in pairs) / 3)
    assert report.accuracy_norm == pytest.approx(sum(n == row.completion for row, _, n in pairs) / 3)
    assert chosen != tuple(row.completion for row in ROWS)  # the base alone copies


def test_an_adapter_that_knows_the_task_chooses_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS[:2])
    line = ["eval", "weft/letters-adapters/reverse", "--data", str(tmp_path / "rows.jsonl"), "--json"]
    assert main(line) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["accuracy"] == told["accuracy_norm"] == 1.0
    assert told["without"]["accuracy"] < 1
    assert told["accuracy - base"] == 1.0 - told["without"]["accuracy"]


def test_rows_keep_their_choices_and_mmlu_is_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    assert read_rows(tmp_path / "rows.jsonl") == tuple(ROWS)
    lines = [
        {"question": "1 + 1?", "choices": ["1", "2"], "answer": 1, "subject": "sums"},
        {"question": "1 + 0?", "choices": ["1", "2"], "answer": "1"},
    ]
    (tmp_path / "mmlu.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_rows(tmp_path / "mmlu.jsonl")
    assert read == (Row("1 + 1?", "2", choices=("1", "2")), Row("1 + 0?", "1", choices=("1", "2")))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"question": "x", "choices": ["1", "2"], "answer": 2}, "number or the text of a choice, got 2"),
        ({"question": "x", "choices": ["1", "2"], "answer": True}, "number or the text of a choice"),
        ({"question": "x", "choices": "12", "answer": 0}, "choices should be a list of strings"),
        ({"prompt": "x", "completion": "3", "choices": ["1", "2"]}, "should be one of two or more choices"),
        ({"prompt": "x", "completion": "1", "choices": ["1"]}, "should be one of two or more choices"),
        ({"prompt": "x", "completion": "1", "choices": ["1", None]}, "one of the choices should be a string"),
    ],
)
def test_wrong_choices_are_named(value: dict[str, object], said: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(value) + "\n")
    with pytest.raises(ConfigError, match=f"line 1: .*{said}"):
        read_rows(tmp_path / "rows.jsonl")


def test_rows_without_choices_have_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "rows.jsonl", [Row("cab", "bac")])
    assert main(["eval", "weft/letters", "--data", str(tmp_path / "rows.jsonl"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "accuracy" not in told
    assert math.isfinite(told["loss"])
