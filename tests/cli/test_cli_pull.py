"""`weft pull`, and what the verbs say of a model that is not there yet."""

import json
from pathlib import Path

import pytest

from weft.cli import main
from weft.registry import NAMED, kept_in

NAME = "weft/smollm2"


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the model would lie."""
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    folder = kept_in(NAMED[NAME])
    folder.mkdir(parents=True)
    return folder


def test_print_path_prints_the_folder_alone(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", NAME, "--print-path"]) == 0
    assert capsys.readouterr() == (f"{fetched}\n", "")


def test_what_was_pulled(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", NAME]) == 0
    out = capsys.readouterr().out
    assert "SmolLM2-135M-Instruct" in out
    assert "Apache-2.0" in out
    assert str(fetched) in out


def test_what_ships_with_weft_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "weft/letters", "--print-path"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "config.json").is_file()


@pytest.mark.parametrize("name", ["weft/smolm2", "smollm2", "."])
def test_unknown_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", name]) == 1
    told = capsys.readouterr().err
    assert told.startswith("weft: no model")
    assert (NAME in told) == (name != ".")


def test_list_says_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))

    def listed() -> dict[str, object]:
        assert main(["list", "--json"]) == 0
        return {row["name"]: row for row in json.loads(capsys.readouterr().out)}[NAME]

    assert listed() == {"name": NAME, "kind": "base", "megabytes": 93, "where": f"to fetch: weft pull {NAME}"}
    kept_in(NAMED[NAME]).mkdir(parents=True)
    assert listed()["where"] == "fetched"


def test_show_names_the_way_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    assert main(["show", NAME]) == 1
    assert "weft pull weft/smollm2" in capsys.readouterr().err
