"""`weft swarm`: up, a killed worker, status, down; text over it equals that of one process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weft.cli import main
from weft.swarm import open_swarm
from weft.swarm.folder import SwarmFolder
from weft.tasks.letters.tokenizer import build_tokenizer


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    tokenizer = build_tokenizer(["sort the letters"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    config.initializer_range = 0.2
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def weft(capsys, *arguments, code=0):
    found = main(list(arguments))
    said = capsys.readouterr()
    assert found == code, said.err
    return said.out if code == 0 else said.err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "ray"])
def test_a_swarm_of_three_loses_a_worker_and_no_token(base, capsys, launcher):
    if launcher == "ray":
        pytest.importorskip("ray")
    options = ("--max-new-tokens", "12", "--json")
    want = json.loads(weft(capsys, "generate", "cab", "abc", "--base", base, *options))["results"]
    up = ("swarm", "up", "--base", base, "--workers", "3", "--name", "S", "--threads", "1")
    told = json.loads(weft(capsys, *up, "--launcher", launcher, "--json"))
    assert [told["launcher"], told["state"], len(told["workers"])] == [launcher, "up", 4]
    assert "is up already, or starts" in weft(capsys, *up, code=1)
    try:
        got = json.loads(weft(capsys, "generate", "cab", "abc", "--host", "swarm:S", *options))["results"]
        assert got == want
        holder = next(worker for worker in told["workers"] if worker["stage"] == 1)
        weft(capsys, "swarm", "kill", "--name", "S", "--worker", str(holder["worker"]))
        got = json.loads(weft(capsys, "generate", "cab", "abc", "--host", "swarm:S", *options))["results"]
        assert got == want
        after = json.loads(weft(capsys, "swarm", "status", "--name", "S", "--json"))["workers"]
        assert after[holder["worker"]]["restarts"] == 1
        assert "there is no number 9" in weft(capsys, "swarm", "kill", "--name", "S", "--worker", "9", code=1)
    finally:
        weft(capsys, "swarm", "down", "--name", "S")
    assert "swarm S is down; start it" in weft(capsys, "generate", "cab", "--host", "swarm:S", code=1)
    lost = [event["worker"] for event in SwarmFolder("S").events() if event["event"] == "lost"]
    assert lost.count(holder["worker"]) == 1  # a busy machine may lose others too: slow ones count as hung


def test_names_that_are_not_there(base, capsys):
    assert "no swarm 'nobody'; start one" in weft(capsys, "swarm", "status", "--name", "nobody", code=1)
    assert "cannot name a swarm" in weft(capsys, "swarm", "down", "--name", "../up", code=1)
    assert "a host is written swarm:NAME" in weft(capsys, "generate", "cab", "--host", "there", code=1)
    assert "memory lots is no size" in weft(
        capsys, "swarm", "up", "--base", base, "--name", "S", "--memory", "lots", code=1
    )


@pytest.mark.slow
def test_a_base_that_does_not_fit_is_told_in_one_line(base, capsys):
    up = ("swarm", "up", "--base", base, "--name", "S", "--launcher", "processes", "--spares", "0")
    assert "bytes of weights, the workers take" in weft(
        capsys, *up, "--workers", "2", "--memory", "20K", code=1
    )
    with pytest.raises(ConnectionError, match="is down"):
        open_swarm("S")


def state_of(folder, worker):
    return folder.state["workers"][worker]["state"]


def states(folder):
    return [worker["state"] for worker in folder.state["workers"]]


def until(true, seconds=240.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.mark.slow
def test_what_a_stranger_does_to_a_swarm(base, capsys):
    """Two starts of one name, a killed spare, a killed supervisor, down twice, and up again."""
    options = ("--max-new-tokens", "6", "--json")
    want = json.loads(weft(capsys, "generate", "cab", "--base", base, *options))["results"]
    up = ("swarm", "up", "--base", base, "--workers", "2", "--name", "S", "--threads", "1")
    command = [sys.executable, "-m", "weft.cli", *up, "--launcher", "processes", "--json"]
    both = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    (refused,) = [error for process, (_, error) in zip(both, said, strict=True) if process.returncode]
    assert "swarm S is up already, or starts" in refused
    folder = SwarmFolder("S")
    try:
        until(lambda: "spare" in states(folder))
        spare = states(folder).index("spare")
        told = weft(capsys, "swarm", "kill", "--name", "S", "--worker", str(spare))
        holders = ", ".join(str(worker) for worker in range(3) if worker != spare)
        assert f"was killed: a spare one that held no layers; workers {holders} do" in told
        got = json.loads(weft(capsys, "generate", "cab", "--host", "swarm:S", *options))["results"]
        assert got == want
        holder = states(folder).index("ready")
        told = weft(capsys, "swarm", "kill", "--name", "S", "--worker", str(holder))
        assert f"worker {holder} of swarm S was killed: it held layers " in told
        got = json.loads(weft(capsys, "generate", "cab", "--host", "swarm:S", *options))["results"]
        assert got == want
        pids = [one["pid"] for one in folder.state["workers"] if one["pid"]]
        folder.supervisor.kill()
        until(lambda: folder.supervisor is None)
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids))  # they do not outlive it
        assert "swarm S is down; start it" in weft(capsys, "generate", "cab", "--host", "swarm:S", code=1)
        assert "swarm S is down" in weft(capsys, "swarm", "status", "--name", "S")
        weft(capsys, *up, "--launcher", "processes")
        got = json.loads(weft(capsys, "generate", "cab", "--host", "swarm:S", *options))["results"]
        assert got == want
    finally:
        assert "is down" in weft(capsys, "swarm", "down", "--name", "S")
    assert "is down" in weft(capsys, "swarm", "down", "--name", "S")


@pytest.mark.slow
def test_a_start_that_does_not_come_to_its_end_is_told_with_its_log(base, capsys, tmp_path):
    up = ("swarm", "up", "--base", base, "--workers", "2", "--name", "S", "--launcher", "processes")
    told = weft(capsys, *up, "--timeout", "0.5", code=1)
    assert "swarm S is not ready after 0.5 s" in told
    assert "log" in told.splitlines()[-1]
    assert SwarmFolder("S").supervisor is None
    told = weft(capsys, *up, "--device", "cuda:7", code=1)  # every worker refuses to be measured
    assert "worker-0.log" in told
    assert "no model" in weft(capsys, "swarm", "up", "--base", str(tmp_path / "none"), "--name", "N", code=1)


@pytest.mark.slow
def test_a_coordinator_that_is_killed_goes_on_from_its_journal(base, capsys, tmp_path):
    options = ("--max-new-tokens", "40", "--temperature", "1", "--seed", "3", "--json")
    want = json.loads(weft(capsys, "generate", "cab", "--base", base, *options))["results"]
    up = ("swarm", "up", "--base", base, "--workers", "2", "--name", "S", "--threads", "1")
    weft(capsys, *up, "--launcher", "processes")
    journal = tmp_path / "run.journal"
    arguments = ("generate", "cab", "--host", "swarm:S", "--journal", str(journal), *options)
    try:
        process = subprocess.Popen([sys.executable, "-m", "weft.cli", *arguments], stdout=-1, stderr=-1)
        until(lambda: journal.is_file() and journal.stat().st_size > 5_000)
        process.kill()
        process.communicate()
        half = journal.stat().st_size
        assert json.loads(weft(capsys, *arguments))["results"] == want
        assert journal.stat().st_size >= half
    finally:
        weft(capsys, "swarm", "down", "--name", "S")


LORA = {"tasks": 2, "rows_per_task": 2, "r": 2}
HYPER = {
    "select_on": "train",
    "encoder": {"kind": "sentence"},
    "network": {"head": {"kind": "L"}, "rank": 2, "latent": 16, "head_in": 16},
    "tasks_per_batch": 2,
    "rows_per_task": 2,
    "gradient_checkpointing": True,
}


@pytest.mark.slow
def test_training_over_a_swarm_whose_workers_are_killed(base, capsys, tmp_path):
    """`weft train lora` and `hyper`: the losses of one process, while every worker is killed once."""
    up = ("swarm", "up", "--base", base, "--workers", "2", "--name", "S", "--threads", "1")
    weft(capsys, *up, "--launcher", "processes")
    folder = SwarmFolder("S")

    def kill():
        for worker in (0, 1, 2):
            until(lambda worker=worker: state_of(folder, worker) in ("ready", "spare"))
            until(lambda: folder.state["ready"])
            os.kill(folder.state["workers"][worker]["pid"], signal.SIGKILL)
            time.sleep(1)

    try:
        for kind, keys, steps in (("lora", LORA, 60), ("hyper", HYPER, 30)):
            curves = []
            for where in ("local", "spread"):
                output = tmp_path / f"{kind} {where}"
                recipe = tmp_path / f"{kind}.json"
                values = {
                    "run": {"output_dir": str(output), "max_steps": steps, "logging_steps": 1},
                    "base": base,
                    "data": {"kind": "letters", "train_tasks": 4, "train_rows": 16, "test_rows": 4},
                    **keys,
                }
                if kind == "hyper":
                    values["encoder_cache"] = str(tmp_path / "cache")
                recipe.write_text(json.dumps(values))
                options = ("--threads", "1", *(("--host", "swarm:S") if where == "spread" else ()))
                killer = threading.Thread(target=kill)
                if where == "spread":
                    killer.start()
                weft(capsys, "train", kind, str(recipe), *options)
                if where == "spread":
                    killer.join()
                lines = (output / "metrics.jsonl").read_text().splitlines()
                curves.append([json.loads(line).get("loss") for line in lines])
            assert len(curves[0]) >= steps
            assert curves[0] == curves[1]
        lost = [event["stage"] for event in folder.events() if event["event"] == "lost"]
        assert {0, 1} <= set(lost)
    finally:
        weft(capsys, "swarm", "down", "--name", "S")
