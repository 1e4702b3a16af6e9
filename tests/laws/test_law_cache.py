"""Law 5: cached decode equals an uncached forward, token by token, under any gate and change of mixture."""

import pytest
import torch

from decoding import decode
from gate_once import Once
from weft.engine import Sampling
from weft.engine.batch import shares_of
from weft.rows import AbstractController, Change
from weft.types import AbstractGate, Dense, Mixture, Rows, Term, Tokens, TopK

K, NEW = 3, 8
LENGTHS = (6, 3, 9)
LONGEST = max(LENGTHS)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


class Linear(AbstractGate):
    """Top two of K by a random linear map of the hidden state, per token and site."""

    def __init__(self, sites, seed=0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.maps = {site: torch.randn(site.in_features, K, generator=rng) for site in sites}

    def assign(self, x_BTI, site, state):
        weight, index = (x_BTI @ self.maps[site]).softmax(-1).topk(2)
        return TopK(index, weight), state


class Decided(AbstractGate):
    """Slow twin of a gate that decides once: the decision, made by hand."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def assign(self, x_BTI, site, state):
        return Dense(self.weight), state


class Span(AbstractGate):
    """Slow twin of a change of mixture: a gate that acts on columns first to last of one uncached forward."""

    def __init__(self, gate, first, last):
        super().__init__()
        self.gate, self.first, self.last = gate, first, last

    def assign(self, x_BTI, site, state):
        rows, columns = x_BTI.shape[:2]
        given = self.gate
        if isinstance(given, AbstractGate):
            given, state = given.assign(x_BTI, site, state)
        given = dense(given, columns).expand(rows, -1, -1).clone()
        given[:, : self.first] = 0
        given[:, self.last :] = 0
        return Dense(given), state


def dense(assignment, columns):
    """Any assignment as a weight per row, column and adapter, by plain loops."""
    if isinstance(assignment, Dense):
        weight = assignment.weight
        if weight.dim() == 2:
            return weight[:, None].expand(-1, columns, -1)
        return torch.stack([weight[:, min(t, weight.shape[1] - 1)] for t in range(columns)], 1)
    if isinstance(assignment, TopK):
        index, given = assignment.index_BTk, assignment.weight_BTk
    else:
        index = (
            assignment.index_B[:, None, None]
            if isinstance(assignment, Rows)
            else assignment.index_BT[..., None]
        )
        given = torch.ones(index.shape)
    weight = torch.zeros(index.shape[0], columns, K)
    for row in range(index.shape[0]):
        for t in range(columns):
            at = min(t, index.shape[1] - 1)
            for k, w in zip(index[row, at].tolist(), given[row, at].tolist(), strict=True):
                if k >= 0:
                    weight[row, t, k] += w
    return weight


@pytest.fixture(scope="module")
def prompt():
    rng = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 64, (len(LENGTHS), LONGEST), generator=rng)
    mask = torch.tensor([[0] * (LONGEST - n) + [1] * n for n in LENGTHS])
    return ids * mask, mask


def gates(host, seed=0):
    rng = torch.Generator().manual_seed(seed)
    rows, short, long = len(LENGTHS), LONGEST - 2, LONGEST + NEW
    two = torch.rand(rows, long, K, generator=rng).topk(2).indices
    return {
        "rows": (Rows(torch.tensor([1, -1, 2]))),
        "one-row": (Rows(torch.tensor([seed % K]))),
        "tokens": (Tokens(torch.randint(-1, K, (rows, long), generator=rng))),
        "tokens-short": (Tokens(torch.randint(-1, K, (rows, short), generator=rng))),
        "topk": (TopK(two, torch.rand(rows, long, 2, generator=rng))),
        "dense-row": (Dense(torch.rand(rows, K, generator=rng))),
        "dense-token": (Dense(torch.rand(rows, long, K, generator=rng))),
        "linear": Linear(host.sites, seed),
        "once": Once(32, K, seed),
    }


NAMES = ["rows", "one-row", "tokens", "tokens-short", "topk", "dense-row", "dense-token", "linear", "once"]


def decided(host, gate, ids, mask):
    """The gate with what it decides on the prompt already inside."""
    if isinstance(gate, Once):
        return Decided(gate.prepare(host.embed(ids), mask.bool())[0].assignment.weight)
    return gate


def read(host, prompt, **kwargs):
    """Decode greedily; the whole of ids, and the logits of every step."""
    ids, mask = prompt
    said, logits = [], []
    for step in decode(host, ids, mask, sampling=Sampling(max_new_tokens=NEW), **kwargs):
        said.append(torch.tensor(step.tokens))
        logits.append(step.logits_BV)
    whole = torch.cat([ids, torch.stack(said, 1)], 1)
    return whole, torch.stack(logits, 1)


def forward(host, whole, prompt, mixture, columns):
    """One uncached forward over the first `columns` columns."""
    mask = torch.cat([prompt[1], torch.ones(len(whole), columns - LONGEST, dtype=torch.long)], 1)
    with torch.no_grad():
        return host.forward(whole[:, :columns], mixture, mask_BT=mask).logits


@pytest.mark.parametrize("combine", ["sum", "average"])
@pytest.mark.parametrize("name", NAMES)
def test_cached_decode_equals_an_uncached_forward(pico_host, pico_bank, prompt, name, combine):
    bank = pico_bank(K, 2)
    gate = gates(pico_host)[name]
    whole, logits = read(pico_host, prompt, mixture=Mixture((Term(bank, gate, combine),)))
    slow = Mixture((Term(bank, decided(pico_host, gate, *prompt), combine),))
    for step in range(NEW):
        want = forward(pico_host, whole, prompt, slow, LONGEST + step)[:, -1]
        torch.testing.assert_close(logits[:, step], want, **CLOSE)
    base = forward(pico_host, whole, prompt, None, LONGEST + NEW - 1)[:, LONGEST - 1 :]
    assert (logits - base).abs().amax() > 0.05, (
        "the mixture changes too little for this test to mean something"
    )


class Switch(AbstractController):
    """Goes through mixtures, a row's share at a time, after given steps."""

    def __init__(self, mixtures, steps, reread=False):
        padding = [LONGEST - length for length in LENGTHS]
        self.shares = [shares_of(mixture, len(LENGTHS), padding) for mixture in mixtures]
        self.steps, self.reread = steps, reread

    def start(self, request):
        return self.shares[0][int(request.id)], len(request.prompt_ids)

    def observe(self, states, events):
        changes = []
        for length, event in zip(states, events, strict=True):
            step = event.position - length
            share = self.shares[1 + self.steps.index(step)][int(event.id)] if step in self.steps else None
            changes.append((length, Change(share, reread=self.reread) if share is not None else None))
        return changes


PAIRS = [
    ("rows", "dense-row"),
    ("dense-row", "linear"),
    ("linear", "tokens"),
    ("topk", "one-row"),
    ("once", "dense-token"),
    ("linear", "rows"),
    ("rows", "once"),
    ("once", "once"),
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_change_acts_from_its_token_on_and_keeps_the_past(pico_host, pico_bank, prompt, before, after):
    old = Term(pico_bank(K, 2, seed=1), gates(pico_host)[before])
    new = Term(pico_bank(K, 3, seed=2), gates(pico_host, seed=1)[after])
    third = Term(pico_bank(K, 1, seed=3), gates(pico_host, seed=2)["rows"])
    switch = Switch([Mixture((old,)), Mixture((new,)), Mixture((third,))], [2, 5])
    whole, logits = read(pico_host, prompt, controller=switch)

    # token `step` sits in column LONGEST + step: a change on hearing it acts from that column on
    at, last = LONGEST + 2, LONGEST + 5
    spans = Mixture(
        (
            Term(old.bank, Span(decided(pico_host, old.gate, *prompt), 0, at)),
            Term(new.bank, Span(decided(pico_host, new.gate, *prompt), at, last)),
            Term(third.bank, Span(third.gate, last, LONGEST + NEW)),
        )
    )
    want = forward(pico_host, whole, prompt, spans, LONGEST + NEW - 1)[:, LONGEST - 1 :]
    torch.testing.assert_close(logits, want, **CLOSE)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_recompute_reads_the_prefix_again(pico_host, pico_bank, prompt, before, after):
    old = Mixture((Term(pico_bank(K, 2, seed=1), gates(pico_host)[before]),))
    new_gate = gates(pico_host, seed=1)[after]
    new_bank = pico_bank(K, 3, seed=2)
    switch = Switch([old, Mixture((Term(new_bank, new_gate),))], [3], reread=True)
    whole, logits = read(pico_host, prompt, controller=switch)

    # a gate that decides once decides on all that is read again: the prompt and the first four tokens
    again = whole[:, : LONGEST + 4]
    mask = torch.cat([prompt[1], torch.ones(len(whole), 4, dtype=torch.long)], 1)
    new = Mixture((Term(new_bank, decided(pico_host, new_gate, again, mask)),))
    want = forward(pico_host, whole, prompt, new, LONGEST + NEW - 1)[:, LONGEST - 1 :]
    torch.testing.assert_close(logits[:, 4:], want[:, 4:], **CLOSE)
    assert (logits[:, :4] - want[:, :4]).abs().amax() > 0.05


def test_keeping_and_recomputing_differ(pico_host, pico_bank, prompt):
    mixtures = [Mixture(), Mixture.of(pico_bank(1, 2))]
    kept = read(pico_host, prompt, controller=Switch(mixtures, [0]))[1]
    again = read(pico_host, prompt, controller=Switch(mixtures, [0], reread=True))[1]
    assert torch.equal(kept[:, 0], again[:, 0])
    assert (kept[:, 1] - again[:, 1]).abs().amax() > 0.01


def test_a_change_to_the_same_mixture_changes_nothing(pico_host, pico_bank, prompt):
    mixture = Mixture.rows(pico_bank(K, 2), [2, None, 0])
    want = read(pico_host, prompt, mixture=mixture)
    got = read(pico_host, prompt, controller=Switch([mixture, mixture], [3]))
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
