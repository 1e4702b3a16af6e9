"""Three worker processes over TCP, which are killed and stopped; WEFT_SWARM_PROCESSES says how often."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter

import pytest
import torch

from forked import start
from laws.test_law_remote import check_same
from swarm.test_training import gradients, same
from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.rows import Request, Share
from weft.swarm import SwarmHost, TcpLink, listen, load_stage, serve

CASES = int(os.environ.get("WEFT_SWARM_PROCESSES", "3"))
STEPS = 8
KILLED = [("kill", step, stage) for step in range(STEPS) for stage in range(3)]
"""Step 0 reads the prompts, the others decode."""
CHOSEN = [
    ("kill", 0, 2),
    ("hang", 4, 1),
    ("kill within", 3, 0),
    *(case for case in KILLED if case != ("kill", 0, 2)),
    ("hang", 0, 0),
    ("hang", 7, 2),
    ("kill within", 5, 1),
    ("kill within", 0, 2),
]


def work(folder, first, last):
    """A worker: prints its port, and serves."""
    torch.set_num_threads(1)
    stage = load_stage(folder, first, last)
    with listen() as listener:
        print(listener.getsockname()[1], flush=True)
        serve(stage.answer, listener)


class Process:
    """A worker of some layers; a new one takes the place of one that is dead or does not answer."""

    def __init__(self, said, *arguments):
        self.said, self.arguments = said, arguments
        self.start()

    def start(self):
        self.said.unlink(missing_ok=True)
        self.process = start(work, *self.arguments, said=self.said)

    def connect(self, failed):
        if not self.process.is_alive() or failed >= 2:
            self.kill()
            self.start()
        end = time.monotonic() + 120
        while not (self.said.exists() and self.said.read_text().endswith("\n")):
            assert self.process.is_alive(), self.said.read_text()
            assert time.monotonic() < end, "no worker"
            time.sleep(0.005)
        return TcpLink(("127.0.0.1", int(self.said.read_text())))

    def kill(self, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.join()


@pytest.fixture
def model():
    return make_llama(num_hidden_layers=4)


@pytest.fixture
def workers(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    workers = [
        Process(tmp_path / f"said-{i}.txt", tmp_path / "base", i, j) for i, j in ((0, 1), (1, 3), (3, 4))
    ]
    yield workers
    for worker in workers:
        worker.kill()


def write(host, bank, before=lambda step: None):
    """Tokens and logits by row."""
    loop = Loop(host)
    shares = [Share(), Share.of(bank[0]), Share.of(bank[1], bank[2], weights=[0.5, -0.5]), Share.of(bank[2])]
    for i, share in enumerate(shares):
        ids = tuple(range(5 + i, 10 + 2 * i))
        loop.submit(
            Request(str(i), ids, share), sampling=Sampling(max_new_tokens=STEPS, temperature=float(i % 2))
        )
    tokens, logits, step = {}, {}, 0
    while loop.busy:
        before(step)
        for spoken in loop.step():
            tokens.setdefault(spoken.id, []).append(spoken.token_id)
            logits.setdefault(spoken.id, []).append(spoken.logits_V)
        step += 1
    return tokens, {name: torch.stack(rows) for name, rows in logits.items()}


@pytest.mark.slow
def test_killed_and_stopped_workers_cost_no_token(model, workers, record_property):
    """One worker each time, before a step or somewhere within it: all steps and stages, then drawn ones."""
    local = Host(model)
    bank = make_bank(local.sites, 3, 4)
    host = SwarmHost([worker.connect for worker in workers], patience=3.0)
    assert host.sites == local.sites
    assert host.fingerprint == local.fingerprint
    calm = write(host, bank)
    assert calm[0] == write(local, bank)[0]
    rng = random.Random(0)
    met: Counter[str] = Counter()
    for case in range(CASES):
        kind, at, stage = CHOSEN[case] if case < len(CHOSEN) else rng.choice(CHOSEN)
        number = signal.SIGSTOP if kind == "hang" else signal.SIGKILL
        wait = rng.random() * 0.02 if kind == "kill within" else 0.0
        seen = host.seats[stage].recoveries
        hit: list[threading.Timer] = []

        def fault(step, at=at, stage=stage, number=number, wait=wait, hit=hit):
            if step != at:
                return
            if wait:
                hit.append(threading.Timer(wait, workers[stage].kill))
                hit[0].start()
            else:
                workers[stage].kill(number)

        check_same(write(host, bank, fault), calm)
        for thread in hit:
            thread.join()
            check_same(write(host, bank), calm)  # where it came after the last step
        assert host.seats[stage].recoveries > seen
        met[kind] += 1
    record_property("met", {f"{kind} of a process": count for kind, count in met.items()})
    host.close()


@pytest.mark.slow
def test_a_worker_that_dies_in_training_changes_no_gradient(model, workers):
    """Before the forward, and between it and the backward: by CASES each stage, or one of them."""
    local = Host(model)
    local.gradient_checkpointing_enable()
    want = gradients(local)
    host = SwarmHost([worker.connect for worker in workers], patience=3.0)
    same(gradients(host), want)
    for stage in range(3) if CASES >= 30 else (1,):
        workers[stage].kill()  # the forward starts a new one
        same(gradients(host), want)

        def die(grad, stage=stage):
            workers[stage].kill()
            return grad

        same(gradients(host, at_loss=die), want)
    host.close()
