"""Law 12: a host spread over stages equals the local one, whoever dies on the way."""

import pytest
import torch

from decoding import decode
from swarm.faults import Schedule, parts_of, spread
from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.rows import AbstractController, Change, Request, Share
from weft.types import Dense, Mixture, Term

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NEW = 8


class Script(AbstractController):
    """Does to every row what its script says: step -> change."""

    evicts = True

    def __init__(self, share, script):
        self.share, self.script = share, script

    def start(self, request):
        return self.share, 0

    def observe(self, states, events):
        return [(step + 1, self.script.get(step)) for step in states]


def prompt(seed, length):
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 64, (length,), generator=rng).tolist())


def scripts(bank):
    """The base, eight adapters, blends, shifts, evictions, rereading, forced tokens."""
    one, two, three = bank[0], bank[1], bank[2]
    blend = torch.zeros(1, len(bank))
    blend[0, :3] = torch.tensor([0.5, -0.25, 0.75])
    return {
        "base": (Share(), {}),
        **{f"adapter {k}": (Share.of(bank[k]), {}) for k in range(len(bank))},
        "blend": (Share.of(one, two, weights=[0.3, -0.5]), {}),
        "term": (Share(terms=(Term(bank, Dense(blend)),)), {}),
        "shift": (Share.of(one), {2: Change(Share.of(two)), 6: Change(Share.of(three, one))}),
        "evict": (Share.of(two), {3: Change(evict=2), 5: Change(Share.of(one), evict=3)}),
        "reread": (
            Share(),
            {3: Change(Share.of(three), reread=True), 6: Change(Share(), reread=True, evict=2)},
        ),
        "force": (Share.of(three), {1: Change(force=(7, 9)), 5: Change(Share(), silent=True)}),
    }


def write(host, bank, *, temperature=0.0, chunk=None):
    """Rows that join two at a time, every second step; tokens and logits by request, in their order."""
    loop = Loop(host, max_rows=9, chunk=chunk)
    waiting = list(enumerate(scripts(bank).items()))
    tokens, logits = {}, {}
    step = 0
    while loop.busy or waiting:
        for seed, (name, (share, script)) in waiting[:2] if step % 2 == 0 else []:
            loop.submit(
                Request(name, prompt(seed, 3 + seed % 5)),
                sampling=Sampling(max_new_tokens=NEW, temperature=temperature, seed=seed),
                controller=Script(share, script),
            )
            waiting = waiting[1:]
        for spoken in loop.step():
            tokens.setdefault(spoken.id, []).append(spoken.token_id)
            logits.setdefault(spoken.id, []).append(spoken.logits_V)
        step += 1
    return tokens, {name: torch.stack(rows) for name, rows in logits.items()}


@pytest.fixture(scope="module")
def model():
    return make_llama(num_hidden_layers=4)


@pytest.fixture(scope="module")
def bank(model):
    return make_bank(Host(model).sites, 8, 4)


@pytest.fixture(scope="module")
def parts(model):
    return parts_of(model, [0, 1, 3, 4])


@pytest.fixture(scope="module")
def calm(bank, parts):
    """The run of three stages without a fault."""
    return write(spread(parts)[0], bank)


@pytest.fixture(scope="module")
def local(model, bank):
    return write(Host(model), bank)


def check_same(said, want):
    """To the bit: the run without a fault, of the same stages."""
    assert said[0] == want[0]
    for name, rows in said[1].items():
        assert torch.equal(rows, want[1][name]), name


def check(said, want):
    tokens, logits = said
    assert tokens == want[0]
    for name, rows in logits.items():
        torch.testing.assert_close(rows, want[1][name], **CLOSE)


@pytest.mark.parametrize("cuts", [[0, 2, 4], [0, 1, 2, 3, 4]])
def test_a_spread_host_says_what_the_local_one_says(model, bank, local, cuts):
    host, _ = spread(parts_of(model, cuts))
    assert host.sites == Host(model).sites
    assert host.fingerprint == Host(model).fingerprint
    check(write(host, bank), local)


@pytest.mark.parametrize(("temperature", "chunk"), [(1.0, 2)])
def test_sampled_rows_and_prompts_in_stretches(model, bank, parts, temperature, chunk):
    want = write(Host(model), bank, temperature=temperature, chunk=chunk)
    check(write(spread(parts)[0], bank, temperature=temperature, chunk=chunk), want)


@pytest.mark.parametrize("seed", range(2))
def test_seeded_fault_schedules(bank, parts, calm, seed):
    faults = Schedule(seed)
    check_same(write(spread(parts, faults)[0], bank), calm)
    assert sum(faults.counts.values()) > 10


def test_a_loop_of_many_rows_under_one_mixture(model, bank, parts):
    """Shares that nobody holds, step by step, as `decode` and the laws use a host."""
    shares = [Share.of(bank[i % 8]) if i % 3 else Share() for i in range(12)]
    ids = torch.tensor([prompt(i, 6) for i in range(12)])
    said = []
    for host in (Host(model), spread(parts)[0]):
        cache = host.new_cache()
        first = host.step(ids, cache, shares, capture=True)
        after = host.step(first.logits_BV.argmax(-1)[:, None], cache, shares, capture=True)
        said.append((*first, *after))
    for here, there in zip(*said, strict=True):
        torch.testing.assert_close(here, there, **CLOSE)


def test_engine_takes_a_spread_host(model, bank, parts):
    ids = torch.tensor([prompt(0, 5), prompt(1, 5)])
    said = []
    for host in (Host(model), spread(parts)[0]):
        steps = decode(host, ids, mixture=Mixture.rows(bank, [3, None]), sampling=Sampling(max_new_tokens=5))
        said.append([step.tokens for step in steps])
    assert said[0] == said[1]
