"""Seeded schedules of faults on a tiny model: every token and logit is that of the run without one.

WEFT_SWARM_CASES says how many; `make swarm` runs 1,000. What they met is told at the end.
"""

import os
import random
from collections import Counter

import pytest
import torch

from laws.test_law_remote import Script, check_same
from swarm.faults import CLOCK, KINDS, Schedule, parts_of, spread
from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.rows import Change, Request, Share
from weft.swarm import seat

CASES = int(os.environ.get("WEFT_SWARM_CASES", "12"))
BLOCKS = 1 if CASES < 100 else 10
"""Seeds are divided among so many tests, which processes may share."""
STRIDE = 1 if CASES >= 1000 else 5


class Dies(Exception):
    """The coordinator is killed."""


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch):
    """Whoever waits for an answer moves the clock, and waits for nothing."""
    monkeypatch.setattr(seat, "monotonic", CLOCK)


@pytest.fixture(scope="module")
def model():
    return make_llama(num_hidden_layers=3)


@pytest.fixture(scope="module")
def bank(model):
    return make_bank(Host(model).sites, 3, 2)


@pytest.fixture(scope="module")
def parts(model):
    return parts_of(model, [0, 1, 2, 3])


@pytest.fixture(scope="module")
def calm(parts, bank):
    return write(spread(parts)[0], bank)


def write(host, bank, before=lambda step: None):
    """Three rows: greedy, sampled under a blend, and one that shifts, cuts and joins late."""
    loop, tokens, logits, step = Loop(host), {}, {}, 0
    script = {0: Change(Share.of(bank[1])), 1: Change(evict=1), 2: Change(Share.of(bank[2], bank[0]))}
    rows = [
        (Request("greedy", (5, 6, 7)), Sampling(max_new_tokens=5), None),
        (
            Request("sampled", (8, 9), Share.of(bank[0], bank[1], weights=[0.5, -0.5])),
            Sampling(max_new_tokens=4, temperature=1.0, seed=3),
            None,
        ),
        (Request("shifts", (10, 11, 12, 13)), Sampling(max_new_tokens=4), Script(Share(), script)),
    ]
    for request, sampling, controller in rows[:2]:
        loop.submit(request, sampling=sampling, controller=controller)
    while loop.busy or step < 2:
        if step == 1:
            loop.submit(rows[2][0], sampling=rows[2][1], controller=rows[2][2])
        before(step)
        for spoken in loop.step():
            tokens.setdefault(spoken.id, []).append(spoken.token_id)
            logits.setdefault(spoken.id, []).append(spoken.logits_V)
        step += 1
    return tokens, {name: torch.stack(rows) for name, rows in logits.items()}


class Once:
    """One fault at the n-th call, counted from when it is armed."""

    def __init__(self, kind, place):
        self.kind, self.place, self.seen = kind, place, -1
        self.armed = False

    def __call__(self):
        self.seen += self.armed
        return self.kind if self.armed and self.seen == self.place else None


def run(seed, parts, bank, folder):
    """One schedule: faults of all kinds, and in every third a coordinator that is killed twice."""
    rng = random.Random(seed)
    restarts = 2 if seed % 3 == 0 else 0
    met = Counter()
    while True:
        faults = Schedule(rng.random(), rng.choice((0.03, 0.1, 0.2)))
        journal = {"journal": folder / f"{seed}"} if seed % 3 == 0 else {}
        host, _ = spread(parts, faults, **journal)
        dies_at = rng.randrange(6) if restarts else -1

        def before(step, dies_at=dies_at):
            if step == dies_at:
                raise Dies

        try:
            said = write(host, bank, before)
        except Dies:
            restarts -= 1
            met["coordinator restarted"] += 1
            continue
        finally:
            host.close()
            met.update(faults.counts)
        (folder / f"{seed}").unlink(missing_ok=True)
        return said, met


@pytest.mark.parametrize("block", range(BLOCKS))
def test_seeded_schedules_lose_double_and_reorder_nothing(
    parts, bank, calm, tmp_path, block, record_property
):
    met = Counter()
    seeds = range(block, CASES, BLOCKS)
    for seed in seeds:
        said, counts = run(seed, parts, bank, tmp_path)
        check_same(said, calm)
        met.update(counts)
    record_property("met", {"schedules": len(seeds), **met})
    if CASES >= 12:
        assert all(met[kind] for kind in (*KINDS, "coordinator restarted")), met


@pytest.mark.parametrize("kind", ["kill", "kill after"])
def test_a_kill_at_every_call(parts, bank, calm, kind, record_property):
    """Every step, every stage: prefills, decode steps, joins, cuts. By CASES all of them, or every fifth."""
    calls = Once("none", -1)
    host, _ = spread(parts, calls)
    calls.armed = True
    write(host, bank)
    places = range(0, calls.seen + 1, STRIDE)
    for place in places:
        fault = Once(kind, place)
        host, _ = spread(parts, fault)
        fault.armed = True
        check_same(write(host, bank), calm)
        assert fault.seen > place
    assert calls.seen > 40
    record_property("met", {f"{kind} at every call": len(places)})
