"""The bench compares equal things; its times are nobody's test."""

from pathlib import Path

import pytest


def test_bench_runs_on_a_small_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from bench.tree import run

    rows = run(repeats=1, depths=(0, 3), width=64, columns=32)
    assert [row["what"].split(" / ")[0] for row in rows] == ["tree of depth 0", "tree of depth 3"]
    assert rows[0]["largest load"] == rows[0]["least load"] == 1
    assert rows[1]["least load"] > 0
