import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cli import DESCRIPTIONS, Tiny

from weft.cli import main
from weft.cli.demo.functions import FUNCTIONS, function_answer
from weft.cli.demo.letters import INPUTS, LETTERS, letters_answer
from weft.errors import MissingFileError
from weft.files import embedded_folder
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.tasks.functions.world import World as Functions
from weft.tasks.letters.operation import UNSEEN_PHRASES
from weft.tasks.letters.operations import OPERATIONS
from weft.tasks.letters.world import World
from weft.tasks.source import WordsSource, load_splits

LETTERS_NAME, REAL_NAME = "weft/letters-t2l", "weft/smollm2-t2l"


def ships(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if not (embedded_folder() / name).is_dir()]
    return pytest.mark.skipif(bool(missing), reason=f"not trained yet: {missing}")


@pytest.fixture
def small(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models in place of the letters."""
    monkeypatch.setattr("weft.cli.demo.BASE", tiny.base)
    monkeypatch.setattr("weft.cli.demo.HYPERNETWORK", tiny.hyper)
    monkeypatch.setattr("weft.cli.demo.REAL_HYPERNETWORK", "weft/none-such")


def answers(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    assert main(["demo", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def flags(*inputs: str) -> list[str]:
    described = [part for text in DESCRIPTIONS for part in ("--describe", text)]
    return described + [part for text in inputs for part in ("--input", text)]


def right(rows: list[dict[str, Any]], who: str) -> float:
    return sum(row[who] == row["expected"] for row in rows) / len(rows)


def test_expected_answers_are_those_of_the_letters_world() -> None:
    world = World(train_rows=1)
    for description, steps in LETTERS.items():
        name = "+".join("_".join([o, *({"*": "star"}.get(v, v) for v in p.values())]) for o, p in steps)
        for row in world.find(name).test:
            assert letters_answer(description, row.prompt) == row.completion
    assert letters_answer("something else", "cab") is None


def test_single_operations_are_worded_as_in_no_training_task() -> None:
    for description, steps in LETTERS.items():
        if len(steps) == 1:
            operation, parameters = OPERATIONS[steps[0][0]], steps[0][1]
            unseen = [p.format(s="the word", **parameters) for p in operation.phrases[-UNSEEN_PHRASES:]]
            assert description in [text.replace(" one letters", " letter") for text in unseen]


def test_functions_are_known_and_worded_as_in_no_training_function() -> None:
    world = Functions()
    unseen_kinds = {task.name for task in world.unseen_kinds()}
    for description, function in FUNCTIONS.items():
        task = world.find(function.name)
        assert description not in task.descriptions
        assert not unseen_kinds & set(function.name.split("+"))
        for row in task.test:
            assert world.answer(function.name, row.prompt) == row.completion
        for text in function.inputs:
            assert function_answer(description, text)
            assert text not in [row.prompt for row in task.train]
    assert function_answer("something else", "Anna Keller") is None


@pytest.mark.usefixtures("small")
def test_letters_answer_as_generate_does_without_the_description(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = answers(capsys, *flags("cab", "weft"))
    assert [(row["description"], row["input"]) for row in rows] == [
        (description, text) for description in DESCRIPTIONS for text in ("cab", "weft")
    ]
    check(rows, tiny, capsys, told=False)


def test_any_other_base_reads_the_description_where_no_adapter_acts(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = answers(capsys, *flags("cab", "weft"), "--with", tiny.hyper)
    assert {row["hypernetwork"] for row in rows} == {tiny.hyper}
    check(rows, tiny, capsys, told=True)


def check(rows: list[dict[str, Any]], tiny: Tiny, capsys: pytest.CaptureFixture[str], *, told: bool) -> None:
    for row in rows:
        argv = ["generate", row["input"], "--base", tiny.base, "--max-new-tokens", "24"]
        assert main([*argv, *(["--system", row["description"]] if told else [])]) == 0
        assert capsys.readouterr().out == row["base"] + "\n"
        assert main([*argv, "--describe", row["description"], "--with", tiny.hyper]) == 0
        assert capsys.readouterr().out == row["adapted"] + "\n"
        assert row["expected"] is None


def test_the_page_fits_80_columns(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *flags("cab"), "--with", tiny.hyper]) == 0
    page, _, foot = capsys.readouterr().out.partition("Your own sentence:")
    assert max(len(line) for line in page.splitlines()) <= 80
    for words in (*DESCRIPTIONS, "base, told", "adapter", "in one batch"):
        assert words in " ".join(page.split())
    assert f"weft demo --with {tiny.hyper} --describe" in foot
    assert "Exactly right" not in page
    assert "not trained" not in page


def test_a_hypernetwork_that_was_not_trained_is_never_shown_as_good(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hyper = HyperNetwork.from_pretrained(tiny.hyper, host=Host.from_pretrained(tiny.base))
    with torch.no_grad():
        for name, parameter in hyper.network.named_parameters():
            if name.startswith("head.linear"):
                parameter.zero_()
    hyper.save_pretrained(tmp_path / "fresh")
    assert main(["demo", *flags("cab"), "--with", str(tmp_path / "fresh")]) == 0
    assert "was not trained: its adapters change nothing" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_without_a_network_one_line_says_so_and_the_letters_are_shown(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(model: object) -> Path:
        raise MissingFileError("could not fetch weft/smollm2; bring the file")

    (tmp_path / "smollm2-t2l").mkdir()
    monkeypatch.setattr("weft.cli.demo.REAL_HYPERNETWORK", REAL_NAME)
    monkeypatch.setattr("weft.cli.demo.embedded_folder", lambda: tmp_path)
    monkeypatch.setattr("weft.host.fetch.fetch_model", no_network)
    assert main(["demo", *flags("cab"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "weft: the letters alone: could not fetch weft/smollm2; bring the file\n"
    assert {row["hypernetwork"] for row in json.loads(out)} == {tiny.hyper}


def test_an_empty_description_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--describe", " "]) == 1
    assert "description is empty" in capsys.readouterr().err


def test_a_description_of_ones_own_needs_an_input(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--describe", DESCRIPTIONS[0], "--with", tiny.hyper]) == 1
    assert "give an --input" in capsys.readouterr().err


@ships("letters", "letters-t2l")
def test_the_letters_network_follows_most_of_its_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answers(capsys, "--with", LETTERS_NAME)
    assert len(rows) == len(LETTERS) * len(INPUTS)
    assert right(rows, "adapted") >= 0.7
    assert right(rows, "base") <= 0.3


@ships("letters", "letters-t2l")
def test_the_page_of_the_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--with", LETTERS_NAME]) == 0
    page, _, _ = capsys.readouterr().out.partition("Your own sentence:")
    assert max(len(line) for line in page.splitlines()) <= 80
    assert all(description in page for description in LETTERS)
    assert "Exactly right: the adapters" in page


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
@ships("letters", "letters-t2l", "smollm2-t2l")
def test_the_real_model_follows_most_of_its_descriptions_and_the_letters_follow_in_short(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = answers(capsys)
    real = [row for row in rows if row["hypernetwork"] == REAL_NAME]
    assert len(real) == sum(len(function.inputs) for function in FUNCTIONS.values())
    assert right(real, "adapted") >= 0.6
    assert right(real, "adapted") >= 2 * right(real, "base")
    assert 1 < len(rows) - len(real) < len(LETTERS)


def test_shift_shows_a_stream_and_what_acted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--shift", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["lines"]) == told["prompt"].count("\n") == 3
    assert all(line["right"] == (line["answer"] == line["expected"]) for line in told["lines"])
    assert main(["demo", "--shift", "--input", "cab"]) == 1
    assert "--shift shows questions of its own" in capsys.readouterr().err


@ships("letters-words")
def test_context_shows_texts_that_no_training_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--context", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["text"].startswith(row["asked"]) for row in rows)
    assert sum(row["right"] == "yes" for row in rows) >= len(rows) - 1
    assert all(row["text"].endswith(row["from its weights"]) for row in rows if row["right"] == "yes")
    assert not any(row["text"].endswith(f">{row['base alone']}") for row in rows)
    trained = load_splits(WordsSource(kind="words", words=(1, 2), idle=3, documents=6000))["train"]
    lines = {line for task in trained for line in task.descriptions[0].splitlines()}
    assert not {row["text"] for row in rows} & lines
    assert main(["demo", "--context"]) == 0
    assert "Texts to adapters" in capsys.readouterr().out
    assert main(["demo", "--context", "--mix"]) == 1
    assert "--context shows questions of its own" in capsys.readouterr().err


@ships("letters-words", "letters-mix")
def test_mix_shows_questions_that_need_a_text_and_an_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--mix", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert any(row["right"] == "yes" for row in rows)
    assert all((row["right"] == "yes") == (row["answer"] == row["expected"]) for row in rows)
    assert main(["demo", "--mix"]) == 0
    out = capsys.readouterr().out
    assert main(["show", "weft/letters-mix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == ["context", "stack", "library"]
    assert main(["show", "weft/letters-words", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "context network"
    assert main(["list", "--json"]) == 0
    kinds = {row["name"]: row["kind"] for row in json.loads(capsys.readouterr().out)}
    assert (kinds["weft/letters-words"], kinds["weft/letters-mix"]) == ("context", "mix")
    assert "speaker:1" in out
    assert "-> mix: context " in out
