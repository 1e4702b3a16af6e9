import json
import sys
from pathlib import Path

import pytest
import torch

from weft.cli import main
from weft.cli.bench import put_section

BENCH = '''"""Weft against a peer."""

import torch


def run() -> list[dict[str, object]]:
    return [{"what": "decode", "ratio": 2.0, "threads": torch.get_num_threads()}]
'''


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own; other tests may have imported the real `bench`."""
    for name in [name for name in sys.modules if name.split(".")[0] == "bench"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "two_ways.py").write_text(BENCH)
    (tmp_path / "bench" / "timing.py").write_text("def median(): ...\n")
    monkeypatch.setattr("weft.cli.bench.checkout_folder", lambda name: tmp_path / name)
    return tmp_path


def test_lists_what_can_run(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["two-ways"]


def test_runs_and_writes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = checkout / "docs" / "results" / "speed.md"
    threads = torch.get_num_threads()
    assert main(["bench", "two-ways", "--threads", "1", "--write"]) == 0
    out = capsys.readouterr().out
    assert "Weft against a peer." in out
    assert "decode" in out
    text = page.read_text()
    assert "## two-ways" in text
    assert "| what | ratio | threads |" in text
    assert "| decode | 2 | 1 |" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "1 threads" in text
    assert main(["bench", "two-ways", "--write", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["two-ways"][0]["ratio"] == 2.0
    assert page.read_text() == text
    torch.set_num_threads(threads)


def test_a_section_is_replaced_and_the_others_stay() -> None:
    page = put_section("# Speed\n\nAbout.\n", "a", "one")
    page = put_section(page, "b", "two\n\n### deep\n\nthree")
    assert put_section(page, "a", "four") == page.replace("one", "four")
    assert put_section(put_section(page, "a", "four"), "a", "one") == page
    assert page == "# Speed\n\nAbout.\n\n## a\n\none\n\n## b\n\ntwo\n\n### deep\n\nthree\n"


def test_an_unknown_bench(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "two-way"]) == 1
    assert capsys.readouterr().err == "weft: no bench two-way (did you mean two-ways?); there are two-ways\n"


def test_no_checkout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("weft.cli.shared.checkout.__file__", "/nowhere/lib/weft/cli/shared/checkout.py")
    assert main(["bench"]) == 1
    assert "comes with a checkout of Weft" in capsys.readouterr().err
