"""Memory that requests take is given back."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_thousand_requests_leave_memory_as_it_was():
    tests = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, tests / "engine" / "memory_rows.py"],
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    first, *_, last = map(int, run.stdout.split())
    assert last < 1.01 * first
