import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed
import yaml
from tiny_training import base_recipe, curve, lora_recipe, tiny_host, write_tasks

from weft.config import load_config
from weft.errors import ConfigError, SaveError
from weft.train import BaseRecipe, Run, train_base, train_lora

Train = Callable[..., object]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


class Stopped(Exception):
    """Stands for whatever may end a run early."""


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let a run end when it has logged a step."""
    log = Run.log

    def once(self: Run, done: int, metrics: dict[str, float]) -> None:
        log(self, done, metrics)
        if done == step:
            monkeypatch.setattr(Run, "log", log)
            raise Stopped

    monkeypatch.setattr(Run, "log", once)


def train(kind: str, tasks: Path, folder: Path, **changes: object) -> None:
    if kind == "lora":
        train_lora(lora_recipe(tasks, folder, **changes), host=tiny_host(tasks))
    else:
        train_base(base_recipe(tasks, folder, optimizer={"optim": kind}, **changes))


@pytest.mark.parametrize("kind", ["adamw", "muon", "lora"])
def test_three_steps_and_three_resumed_are_six_to_the_bit(
    kind: str, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(kind, tasks, tmp_path / "whole")
    stop_after(monkeypatch, 5)  # checkpoint 3 is there, steps 4 and 5 are lost
    with pytest.raises(Stopped):
        train(kind, tasks, tmp_path / "parts")
    assert [line["step"] for line in curve(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    train(kind, tasks, tmp_path / "parts")
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 7
    for name in ("model", "optimizer"):
        file = f"checkpoint-6/{name}.safetensors"
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_finished_run_started_again_changes_nothing(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    train("lora", tasks, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_only_the_last_checkpoint_is_kept(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path, run={"save_steps": 1})
    assert [p.name for p in tmp_path.glob("*checkpoint*")] == ["checkpoint-6"]
    assert not list(tmp_path.glob(".*"))


def test_a_fresh_start_forgets_the_run_that_was_there(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("lora", tasks, tmp_path)
    other = lora_recipe(tasks, tmp_path, optimizer={"learning_rate": 0.02})
    stop_after(monkeypatch, 2)  # before its first checkpoint
    with pytest.raises(Stopped):
        train_lora(other, host=tiny_host(tasks), resume=False)
    train_lora(other, host=tiny_host(tasks))
    assert curve(tmp_path)[-2]["step"] == 6
    train_lora(lora_recipe(tasks, tmp_path / "new", optimizer={"learning_rate": 0.02}), host=tiny_host(tasks))
    assert curve(tmp_path) == curve(tmp_path / "new")


def test_another_recipe_in_the_same_folder_is_refused(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    before = curve(tmp_path)
    with pytest.raises(ConfigError, match="where r is 4 and not 2; choose another output_dir, or"):
        train("lora", tasks, tmp_path, r=2)
    assert curve(tmp_path) == before


def test_a_checkpoint_of_another_model_is_refused(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    with pytest.raises(ConfigError, match="does not fit this recipe's model"):
        train_lora(lora_recipe(tasks, tmp_path), host=tiny_host(tasks, num_hidden_layers=1))


def test_an_unknown_key_offers_the_nearest(tasks: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(base_recipe(tasks, tmp_path).model_dump(mode="json")))
    assert load_config(BaseRecipe, recipe, ["run.max-steps=7"]).run.max_steps == 7
    with pytest.raises(ConfigError, match=r"unknown key run\.max_step \(did you mean max_steps\?\)"):
        load_config(BaseRecipe, recipe, ["run.max_step=7"])


def test_a_full_disk_keeps_the_old_checkpoint(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("lora", tasks, tmp_path / "whole")
    stop_after(monkeypatch, 4)
    with pytest.raises(Stopped):
        train("lora", tasks, tmp_path / "full")
    old = tmp_path / "full" / "checkpoint-3"
    before = {p.name: p.read_bytes() for p in old.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The metrics still fit, the weights do not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["model.safetensors"]) // 2, hard))
    try:
        with pytest.raises(SaveError, match=r"checkpoint-6.*untouched"):
            train("lora", tasks, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in old.iterdir()} == before
    assert [p.name for p in (tmp_path / "full").glob("*checkpoint*")] == ["checkpoint-3"]
    train("lora", tasks, tmp_path / "full")
    assert curve(tmp_path / "full") == curve(tmp_path / "whole")


def test_a_line_of_metrics_cut_short_is_dropped(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("lora", tasks, tmp_path / "whole")
    stop_after(monkeypatch, 4)
    with pytest.raises(Stopped):
        train("lora", tasks, tmp_path / "torn")
    with (tmp_path / "torn" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    train("lora", tasks, tmp_path / "torn")
    assert curve(tmp_path / "torn") == curve(tmp_path / "whole")


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from tiny_training import lora_recipe, tiny_host
from weft.train import train_lora

torch.set_num_threads(1)
tasks, folder = map(Path, sys.argv[1:])
recipe = lora_recipe(tasks, folder, run={"max_steps": 16, "save_steps": 1})
host = tiny_host(tasks)
chance, kills, loaded = random.Random(0), 0, 0
while True:
    child = os.fork()
    if child == 0:
        train_lora(recipe, host=host)
        os._exit(0)
    time.sleep(chance.uniform(0.02, 0.05 * (kills + 2)))  # ever longer, so that it ends on any machine
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        sys.exit(f"the run failed with {status}" if status else 0)
    kills += 1
    for state in folder.glob("checkpoint-*/state.json"):
        load_file(state.with_name("model.safetensors"))
        load_file(state.with_name("optimizer.safetensors"))
        loaded += 1
    print(kills, loaded, flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_curve(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path / "whole", run={"max_steps": 16, "save_steps": 16})
    here = Path(__file__).parent
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tasks), str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    kills, loaded = map(int, ran.stdout.splitlines()[-1].split())
    assert kills >= 2
    assert loaded >= 1
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    for name in ("model", "optimizer"):
        file = f"checkpoint-16/{name}.safetensors"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


class Tracker:
    """Stands for a sink of metrics."""

    finished = False

    def finish(self) -> None:
        self.finished = True


def test_leaving_a_run_finishes_its_sinks_and_keeps_the_process_group(tasks: Path, tmp_path: Path) -> None:
    tracker = Tracker()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        recipe = lora_recipe(tasks, tmp_path)
        with Run(recipe.run, recipe) as run:
            run.accelerator.trackers = [tracker]
        assert tracker.finished
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
