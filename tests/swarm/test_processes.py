"""Three worker processes over TCP, which are killed and stopped; WEFT_SWARM_PROCESSES says how often."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from laws.test_law_remote import check_same
from swarm.test_training import gradients, same
from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.rows import Request, Share
from weft.swarm import SwarmHost, TcpLink

CASES = int(os.environ.get("WEFT_SWARM_PROCESSES", "3"))
STEPS = 8
WORKER = Path(__file__).with_name("worker_process.py")
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


class Process:
    """A worker of some layers; a new one takes the place of one that is dead or does not answer."""

    def __init__(self, folder, first, last):
        self.arguments = [sys.executable, str(WORKER), str(folder), str(first), str(last)]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.arguments, stdout=subprocess.PIPE, text=True)
        self.port = None

    def connect(self, failed):
        if self.process.poll() is not None or failed >= 2:
            self.end()
            self.start()
        if self.port is None:
            self.port = int(self.process.stdout.readline())
        return TcpLink(("127.0.0.1", self.port))

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def model():
    return make_llama(num_hidden_layers=4)


@pytest.fixture
def workers(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    workers = [Process(tmp_path / "base", i, j) for i, j in ((0, 1), (1, 3), (3, 4))]
    yield workers
    for worker in workers:
        worker.end()


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
    host = SwarmHost([worker.connect for worker in workers], patience=5.0)
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
        seen = [seat.recoveries for seat in host.seats]
        hit: list[threading.Thread] = []

        def fault(step, at=at, stage=stage, number=number, wait=wait, hit=hit):
            if step != at:
                return
            process = workers[stage].process
            if wait:
                hit.append(threading.Thread(target=lambda: (time.sleep(wait), process.send_signal(number))))
                hit[0].start()
            else:
                os.kill(process.pid, number)

        check_same(write(host, bank, fault), calm)
        for thread in hit:
            thread.join()
            check_same(write(host, bank), calm)  # where it came after the last step
        seen[stage] += 1
        assert [seat.recoveries for seat in host.seats] == seen
        met[kind] += 1
    record_property("met", {f"{kind} of a process": count for kind, count in met.items()})
    host.close()


@pytest.mark.slow
def test_a_worker_that_dies_in_training_changes_no_gradient(model, workers):
    """Before the forward, and between it and the backward: by CASES each stage, or one of them."""
    local = Host(model)
    local.gradient_checkpointing_enable()
    want = gradients(local)
    host = SwarmHost([worker.connect for worker in workers], patience=5.0)
    same(gradients(host), want)
    for stage in range(3) if CASES >= 30 else (1,):
        workers[stage].process.kill()  # the forward starts a new one
        same(gradients(host), want)

        def die(grad, stage=stage):
            workers[stage].process.kill()
            return grad

        same(gradients(host, at_loss=die), want)
    host.close()
