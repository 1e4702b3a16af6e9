"""A compiled step says what the others say, and swapping adapters or rows recompiles nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_models import make_llama
from weft.errors import ConfigError
from weft.host import Host


@pytest.mark.slow
def test_a_compiled_step_says_the_same_and_swaps_recompile_nothing():
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, here / "compiled_rows.py"],
        cwd=here.parent,
        env={**os.environ, "PYTHONPATH": f"{here.parent}:{here.parents[1] / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    graphs = run.stdout.split()
    assert len(graphs) == 3
    assert int(graphs[0]) > 0
    assert len(set(graphs)) == 1


def test_a_pool_that_grows_is_not_compiled():
    with pytest.raises(ConfigError, match="fixed size"):
        Host(make_llama()).compile()
