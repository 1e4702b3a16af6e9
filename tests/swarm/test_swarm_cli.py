"""`weft swarm`: up, a killed worker, status, down; text over it equals that of one process."""

import json
import os
import signal
import threading
import time

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from forked import start_weft
from weft.cli import main
from weft.swarm import open_swarm
from weft.swarm.folder import SwarmFolder
from weft.tasks.letters.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
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
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Where swarms have their folders; the one of all tests is ended with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
        folder = SwarmFolder("S")
        if (supervisor := folder.supervisor) is not None:
            ended = [supervisor, *supervisor.children(recursive=True)]
            assert len(ended) >= 5
            assert main(["swarm", "down", "--name", "S"]) == 0
            assert not psutil.wait_procs(ended, timeout=60)[1]


def up(base):
    return ("swarm", "up", "--base", base, "--workers", "3", "--name", "S", "--threads", "1", "--json")


@pytest.fixture
def swarm(base, capsys):
    """The folder of swarm S, all of whose four workers are there; it stays up for the next test."""
    folder = SwarmFolder("S")
    if folder.supervisor is None:
        told = json.loads(weft(capsys, *up(base), "--launcher", "processes"))
        assert [told["launcher"], told["state"], len(told["workers"])] == ["processes", "up", 4]
    until(lambda: sorted(states(folder)) == ["ready", "ready", "ready", "spare"])
    return folder


def weft(capsys, *arguments, code=0):
    found = main(list(arguments))
    said = capsys.readouterr()
    assert found == code, said.err
    return said.out if code == 0 else said.err


def written(capsys, *where):
    """What is written for two prompts."""
    options = ("--max-new-tokens", "12", "--json")
    return json.loads(weft(capsys, "generate", "cab", "abc", *where, *options))["results"]


def states(folder):
    return [worker["state"] for worker in folder.state["workers"]]


def lost(folder, since):
    """Which worker and stage were lost after a time, in turn."""
    events = (event for event in folder.events() if event["event"] == "lost" and event["time"] >= since)
    return [(event["worker"], event["stage"]) for event in events]


def until(true, seconds=240.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.mark.slow
def test_it_loses_a_holder_and_a_spare_and_no_token(base, swarm, capsys):
    want = written(capsys, "--base", base)
    assert "is up already, or starts" in weft(capsys, *up(base), code=1)
    assert written(capsys, "--host", "swarm:S") == want
    begun = time.time()
    before = swarm.state["workers"]
    spare = states(swarm).index("spare")
    told = weft(capsys, "swarm", "kill", "--name", "S", "--worker", str(spare))
    holders = ", ".join(str(worker) for worker in range(4) if worker != spare)
    assert f"was killed: a spare one that held no layers; workers {holders} do" in told
    assert written(capsys, "--host", "swarm:S") == want
    until(lambda: (spare, None) in lost(swarm, begun))  # before a stage could be given to it
    holder = next(worker for worker in swarm.state["workers"] if worker["stage"] == 1)
    told = weft(capsys, "swarm", "kill", "--name", "S", "--worker", str(holder["worker"]))
    assert f"worker {holder['worker']} of swarm S was killed: it held layers " in told
    assert written(capsys, "--host", "swarm:S") == want
    after = json.loads(weft(capsys, "swarm", "status", "--name", "S", "--json"))["workers"]
    for worker in (spare, holder["worker"]):
        assert after[worker]["restarts"] == before[worker]["restarts"] + 1
    assert "there is no number 9" in weft(capsys, "swarm", "kill", "--name", "S", "--worker", "9", code=1)
    found = lost(swarm, begun)  # a busy machine may lose others too: slow ones count as hung
    assert [found.count((spare, None)), found.count((holder["worker"], 1))] == [1, 1]


@pytest.mark.slow
def test_a_spare_takes_over_under_ray_and_the_lost_worker_starts_again(base, capsys):
    pytest.importorskip("ray")
    want = written(capsys, "--base", base)
    start = ("swarm", "up", "--base", base, "--workers", "2", "--threads", "1", "--json")
    told = json.loads(weft(capsys, *start, "--name", "R", "--launcher", "ray"))
    assert [told["launcher"], told["state"], len(told["workers"])] == ["ray", "up", 3]
    folder, begun = SwarmFolder("R"), time.time()
    try:
        assert written(capsys, "--host", "swarm:R") == want
        holder = next(worker["worker"] for worker in told["workers"] if worker["stage"] == 1)
        until(lambda: "spare" in states(folder))
        spare = states(folder).index("spare")
        weft(capsys, "swarm", "kill", "--name", "R", "--worker", str(holder))
        assert written(capsys, "--host", "swarm:R") == want
        after = json.loads(weft(capsys, "swarm", "status", "--name", "R", "--json"))["workers"]
        assert [after[holder]["restarts"], after[spare]["stage"]] == [1, 1]
    finally:
        assert "is down" in weft(capsys, "swarm", "down", "--name", "R")
    assert "is down" in weft(capsys, "swarm", "down", "--name", "R")
    assert "swarm R is down; start it" in weft(capsys, "generate", "cab", "--host", "swarm:R", code=1)
    assert lost(folder, begun).count((holder, 1)) == 1


def test_numbers_that_cannot_be_are_told_in_one_line(capsys):
    assert main(["swarm", "up", "--base", "weft/letters", "--workers", "0", "--name", "S"]) == 1
    assert "weft swarm up: workers: Input should be greater than or equal to 1" in capsys.readouterr().err


def test_names_that_are_not_there(base, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))  # where no swarm is
    assert "no swarm 'nobody'; start one" in weft(capsys, "swarm", "status", "--name", "nobody", code=1)
    assert "cannot name a swarm" in weft(capsys, "swarm", "down", "--name", "../up", code=1)
    assert "a host is written swarm:NAME" in weft(capsys, "generate", "cab", "--host", "there", code=1)
    assert "memory lots is no size" in weft(
        capsys, "swarm", "up", "--base", base, "--name", "M", "--memory", "lots", code=1
    )


@pytest.mark.parametrize("state", ["[]", "{}", '{"supervisor": "1"}', '{"supervisor": -5}', '{"super'])
def test_a_damaged_folder_is_told_in_one_line_and_hides_no_other(base, capsys, monkeypatch, tmp_path, state):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    for name in ("D", "E", "E E"):  # the last one is no name: somebody else's folder
        (tmp_path / "swarm" / name).mkdir(parents=True)
        (tmp_path / "swarm" / name / "plan.json").write_text(json.dumps({"base": base, "workers": 2}))
    (tmp_path / "swarm" / "D" / "state.json").write_text(state)
    for arguments in (["status"], ["kill", "--worker", "0"], ["down"]):
        (line,) = weft(capsys, "swarm", *arguments, "--name", "D", code=1).splitlines()
        assert "state.json is" in line
    rows = json.loads(weft(capsys, "swarm", "status", "--json"))
    assert [(row["swarm"], row["state"]) for row in rows] == [("D", "damaged"), ("E", "down")]


@pytest.mark.slow
def test_a_swarm_that_starts_can_be_ended(base, capsys, tmp_path):
    start = ("swarm", "up", "--base", base, "--workers", "2", "--name", "Q", "--launcher", "processes")
    process = start_weft(*start, said=tmp_path / "said.txt")
    folder = SwarmFolder("Q")
    until(lambda: folder.supervisor is not None)
    assert "is starting" in weft(capsys, "generate", "cab", "--host", "swarm:Q", code=1)
    assert "swarm Q is down" in weft(capsys, "swarm", "down", "--name", "Q")
    process.join()
    assert process.exitcode == 1
    assert folder.supervisor is None


@pytest.mark.slow
def test_a_stopped_supervisor_is_ended(base, capsys, monkeypatch):
    start = ("swarm", "up", "--base", base, "--workers", "1", "--spares", "0", "--name", "P")
    weft(capsys, *start, "--launcher", "processes")
    (worker,) = SwarmFolder("P").state["workers"]
    SwarmFolder("P").supervisor.suspend()
    monkeypatch.setattr("weft.cli.swarm.down._SECONDS", 1)
    assert "swarm P is down" in weft(capsys, "swarm", "down", "--name", "P")
    until(lambda: not psutil.pid_exists(worker["pid"]))


@pytest.mark.slow
def test_a_base_that_does_not_fit_is_told_in_one_line(base, capsys):
    start = ("swarm", "up", "--base", base, "--name", "F", "--launcher", "processes", "--spares", "0")
    assert "bytes of weights, the workers take" in weft(
        capsys, *start, "--workers", "2", "--memory", "20K", code=1
    )
    with pytest.raises(ConnectionError, match="is down"):
        open_swarm("F")


@pytest.mark.slow
def test_a_supervisor_that_is_killed_takes_its_workers_along_and_one_of_two_starts_wins(
    base, swarm, capsys, tmp_path
):
    want = written(capsys, "--base", base)
    pids = [one["pid"] for one in swarm.state["workers"] if one["pid"]]
    assert len(pids) == 4
    swarm.supervisor.kill()
    until(lambda: swarm.supervisor is None)
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids))  # they do not outlive it
    assert "swarm S is down; start it" in weft(capsys, "generate", "cab", "--host", "swarm:S", code=1)
    assert "swarm S is down" in weft(capsys, "swarm", "status", "--name", "S")
    assert "is down" in weft(capsys, "swarm", "down", "--name", "S")
    command = (*up(base), "--launcher", "processes")
    files = [tmp_path / "first.txt", tmp_path / "second.txt"]
    both = [start_weft(*command, said=file) for file in files]
    for process in both:
        process.join()
    said = [file.read_text() for file in files]
    assert sorted(process.exitcode for process in both) == [0, 1], said
    (refused,) = [text for process, text in zip(both, said, strict=True) if process.exitcode]
    assert "swarm S is up already, or starts" in refused
    assert written(capsys, "--host", "swarm:S") == want


@pytest.mark.slow
def test_a_start_that_does_not_come_to_its_end_is_told_with_its_log(base, capsys, tmp_path):
    start = ("swarm", "up", "--base", base, "--workers", "2", "--name", "L", "--launcher", "processes")
    told = weft(capsys, *start, "--timeout", "0.5", code=1)
    assert "swarm L is not ready after 0.5 s" in told
    assert "log" in told.splitlines()[-1]
    assert SwarmFolder("L").supervisor is None
    told = weft(capsys, *start, "--device", "cuda:7", code=1)  # every worker refuses to be measured
    assert "worker-0.log" in told
    assert "no model" in weft(capsys, "swarm", "up", "--base", str(tmp_path / "none"), "--name", "N", code=1)


@pytest.mark.slow
def test_a_coordinator_that_is_killed_goes_on_from_its_journal(base, swarm, capsys, tmp_path):
    options = ("--max-new-tokens", "40", "--temperature", "1", "--seed", "3", "--json")
    want = json.loads(weft(capsys, "generate", "cab", "--base", base, *options))["results"]
    journal = tmp_path / "run.journal"
    arguments = ("generate", "cab", "--host", "swarm:S", "--journal", str(journal), *options)
    process = start_weft(*arguments, said=tmp_path / "said.txt")
    until(lambda: journal.is_file() and journal.stat().st_size > 5_000)
    process.kill()
    process.join()
    half = journal.stat().st_size
    assert json.loads(weft(capsys, *arguments))["results"] == want
    assert journal.stat().st_size >= half


LORA = {"tasks": 2, "rows_per_task": 2, "r": 2}
HYPER = {
    "select_on": "train",
    "encoder": {"kind": "sentence"},
    "network": {"head": {"kind": "L"}, "rank": 2, "latent": 16, "head_in": 16},
    "tasks_per_batch": 2,
    "rows_per_task": 2,
    "gradient_checkpointing": True,
}
STEPS = 20


def losses(folder):
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line).get("loss") for line in lines if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "keys"), [("lora", LORA), ("hyper", HYPER)])
def test_training_over_a_swarm_whose_holders_are_killed(base, swarm, capsys, tmp_path, kind, keys):
    """`weft train lora` and `hyper`: the losses of one process, while each stage loses its worker."""
    spread = tmp_path / "spread"
    begun = time.time()
    seen = []  # how many steps were done before each kill

    def kill():
        for stage in range(3):
            until(lambda stage=stage: len(losses(spread)) > stage * 4 and swarm.state["ready"])
            holder = next(one for one in swarm.state["workers"] if one["stage"] == stage)
            os.kill(holder["pid"], signal.SIGKILL)
            seen.append(len(losses(spread)))

    killer = threading.Thread(target=kill)
    for output, options in ((tmp_path / "local", ()), (spread, ("--host", "swarm:S"))):
        values = {
            "run": {"output_dir": str(output), "max_steps": STEPS, "logging_steps": 1},
            "base": base,
            "data": {"kind": "letters", "train_tasks": 4, "train_rows": 16, "test_rows": 4},
            **keys,
        }
        if kind == "hyper":
            values["encoder_cache"] = str(tmp_path / "cache")
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps(values))
        if options:
            killer.start()
        weft(capsys, "train", kind, str(recipe), "--threads", "1", *options)
    killer.join()
    assert len(losses(spread)) >= STEPS
    assert losses(spread) == losses(tmp_path / "local")
    assert 0 < seen[0] <= seen[1] <= seen[2] < STEPS
    assert {stage for _, stage in lost(swarm, begun)} >= {0, 1, 2}
