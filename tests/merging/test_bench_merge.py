"""The bench compares equal things; its times are nobody's test."""

import sys
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bench_runs_on_a_small_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from bench.merge import run

    (row,) = run(repeats=1, width=160)
    assert row["relative error"] <= 1e-6
    assert "bench.merge" in sys.modules
