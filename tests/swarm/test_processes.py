"""Three worker processes over TCP, which are killed and stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.rows import Request, Share
from weft.swarm import SwarmHost, TcpLink

WORKER = Path(__file__).with_name("worker_process.py")


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
    loop = Loop(host)
    shares = [Share(), Share.of(bank[0]), Share.of(bank[1], bank[2], weights=[0.5, -0.5]), Share.of(bank[2])]
    for i, share in enumerate(shares):
        ids = tuple(range(5 + i, 10 + 2 * i))
        loop.submit(
            Request(str(i), ids, share), sampling=Sampling(max_new_tokens=12, temperature=float(i % 2))
        )
    tokens, step = {}, 0
    while loop.busy:
        before(step)
        for spoken in loop.step():
            tokens.setdefault(spoken.id, []).append(spoken.token_id)
        step += 1
    return tokens


@pytest.mark.slow
def test_killed_and_stopped_workers_cost_no_token(model, workers):
    local = Host(model)
    bank = make_bank(local.sites, 3, 4)
    want = write(local, bank)
    host = SwarmHost([worker.connect for worker in workers], patience=5.0)
    assert host.sites == local.sites
    assert host.fingerprint == local.fingerprint
    faults = {2: (1, signal.SIGKILL), 4: (0, signal.SIGKILL), 6: (2, signal.SIGSTOP)}

    def fault(step):
        if step in faults:
            place, sent = faults[step]
            os.kill(workers[place].process.pid, sent)

    assert write(host, bank, fault) == want
    assert [seat.recoveries for seat in host.seats] == [2, 2, 2]
    host.close()
