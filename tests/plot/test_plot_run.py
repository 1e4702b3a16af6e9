"""`weft plot run`: what metrics.jsonl holds, one panel for each measure."""

import json
from pathlib import Path

import pytest

from weft.cli import main
from weft.errors import ConfigError
from weft.plot.run import _panels, draw_run

LOG = [
    {"step": 1, "seconds": 0.1, "loss": 2.0, "a/loss": 1.0, "learning_rate": 0.1},
    {"step": 2, "seconds": 0.2, "loss": float("nan"), "a/loss": 0.5, "learning_rate": 0.05},
    {"step": 2, "seconds": 0.3, "test/loss": 0.7, "test/followed": 0.5},
]


def test_measures_share_a_panel_by_their_last_name() -> None:
    assert _panels(LOG) == {
        "loss": {"": [(1, 2.0)], "a": [(1, 1.0), (2, 0.5)], "test": [(2, 0.7)]},
        "followed": {"test": [(2, 0.5)]},
        "learning_rate": {"": [(1, 0.1), (2, 0.05)]},
    }
    assert list(_panels(LOG)) == ["loss", "followed", "learning_rate"]


def test_a_run_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    picture = tmp_path / "run.png"
    assert main(["plot", "run", str(tmp_path / "run"), "-o", str(picture)]) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    draw_run([*LOG, {"step": 3, "loss": 9.0}], picture, title=str(tmp_path / "run"))
    assert picture.read_bytes() != first


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "run", str(tmp_path)]) == 1
    assert "holds no run: there is no metrics.jsonl in it" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1}\n')
    assert main(["plot", "run", str(tmp_path)]) == 1
    assert "a line has no step" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_run([], tmp_path / "x.png", title="x")
