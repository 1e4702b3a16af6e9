"""Runs through `accelerate launch`, and in two processes that talk over gloo.

Accelerate's own launcher starts several CPU processes through MPI alone, so torch's starts them here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import base_recipe, curve, lora_recipe, tiny_host, write_tasks

from weft import adapters
from weft.train import train_base, train_lora

ONE = ["accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"]
TWO = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
SCRIPT = """
import atexit, os, sys
from pathlib import Path
import torch
from tiny_training import base_recipe, lora_recipe, tiny_host
from weft.train import train_base, train_lora

torch.set_num_threads(1)
tasks, output = map(Path, sys.argv[1:])
rank = os.environ.get("RANK", "0")
state = lambda: str(torch.distributed.is_initialized())
atexit.register(lambda: (output / f"at-exit-{rank}").write_text(state()))  # first in, so last out
train_lora(lora_recipe(tasks, output / "lora", tasks=["first"], rows_per_task=2), host=tiny_host(tasks))
train_base(base_recipe(tasks, output / "base", tasks_per_batch=2))
(output / f"trained-{rank}").write_text(state())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "processes"), [([*ONE, "--dynamo_backend=no"], 1), (TWO, 2)])
def test_launched_processes_give_the_run_of_one(tmp_path: Path, launcher: list[str], processes: int) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    (tmp_path / "train.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, "-m", *launcher, str(tmp_path / "train.py"), str(tasks), str(tmp_path / "launched")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    # Both trainings share one process group, which is gone before Python is finalised.
    for rank in range(processes):
        assert (tmp_path / "launched" / f"trained-{rank}").read_text() == str(processes > 1)
        assert (tmp_path / "launched" / f"at-exit-{rank}").read_text() == "False"
    # Two processes with half the rows each are one with all, up to rounding, which Adam magnifies.
    recipe = lora_recipe(tasks, tmp_path / "lora", tasks=["first"], rows_per_task=2 * processes)
    one = adapters.load(train_lora(recipe, host=tiny_host(tasks))["first"])
    many = adapters.load(tmp_path / "launched" / "lora" / "adapters" / "first")
    for site in one.sites:
        torch.testing.assert_close(one.factors[site].b_OR, many.factors[site].b_OR, rtol=1e-3, atol=1e-4)
    train_base(base_recipe(tasks, tmp_path / "base", tasks_per_batch=2 * processes))
    whole, launched = (
        [line["loss"] for line in curve(folder / "base") if "loss" in line]
        for folder in (tmp_path, tmp_path / "launched")
    )
    assert len(launched) == 6
    if processes == 1:
        assert launched == whole
    else:
        # What is logged is the first process's share of the tasks; the weights have seen all of them.
        assert launched != whole
        assert launched == pytest.approx(whole, rel=0.1)
