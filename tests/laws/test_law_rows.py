"""Laws of rows: strangers, replays, slots, silence. A row says what it says alone."""

import pytest
import torch

from gate_once import Once
from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.errors import ConfigError, PoolFullError, ShapeError, WeightsError
from weft.host import Host, Pool
from weft.rows import AbstractController, Change, Request, Share
from weft.types import Adapter, Dense, Factors, Mixture, Term

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NEW = 12


def prompt(seed, length):
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 64, (length,), generator=rng).tolist())


class Script(AbstractController):
    """Does to every row what its script says: step -> change."""

    evicts = True

    def __init__(self, share, script):
        self.share, self.script = share, script

    def start(self, request):
        return self.share, 0

    def observe(self, states, events):
        return [(step + 1, self.script.get(step)) for step in states]


def scripts(bank):
    """Rows that stay, shift, are evicted, are read again, are forced, and are gated."""
    one, two, three = bank[0], bank[1], bank[2]
    gate = Once(32, len(bank))
    return {
        "base": (Share(), {}),
        "adapter": (Share.of(one), {}),
        "blend": (Share.of(one, two, weights=[0.3, -0.5]), {}),
        "shift": (Share.of(one), {2: Change(Share.of(two)), 6: Change(Share.of(three, one))}),
        "evict": (Share.of(two), {3: Change(evict=2), 5: Change(evict=3)}),
        "reread": (
            Share(),
            {4: Change(Share.of(three), reread=True), 7: Change(Share(), reread=True, evict=2)},
        ),
        "force": (Share.of(three), {1: Change(force=(7, 9)), 5: Change(Share(), force=(11,), silent=True)}),
        "gated": (Share(terms=(Term(bank, gate),)), {5: Change(Share.of(one))}),
        "average": (Share(terms=(Term(bank, gate, "average"),)), {}),
    }


def write(loop, wanted):
    """Run a loop to its end; tokens and logits by request."""
    tokens, logits = {}, {}
    while loop.busy:
        for spoken in loop.step():
            tokens.setdefault(spoken.id, []).append(spoken.token_id)
            logits.setdefault(spoken.id, []).append(spoken.logits_V)
    assert tokens.keys() == set(wanted)
    return tokens, {id: torch.stack(rows) for id, rows in logits.items()}


def submit(loop, name, bank, seed, *, new=NEW, temperature=0.0):
    share, script = scripts(bank)[name]
    loop.submit(
        Request(f"{name}-{seed}", prompt(seed, 4 + seed % 5)),
        sampling=Sampling(max_new_tokens=new, temperature=temperature, seed=seed),
        controller=Script(share, script),
    )


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_joins_late_among_strangers_says_what_it_says_alone(
    pico_host, pico_bank, chunk, temperature
):
    bank = pico_bank(3, 4)
    names = list(scripts(bank))
    alone = {}
    for seed, name in enumerate(names):
        loop = Loop(pico_host)
        submit(loop, name, bank, seed, temperature=temperature)
        alone |= {
            id: (t, logits[id]) for t, logits in [write(loop, [f"{name}-{seed}"])] for id, t in t.items()
        }
    loop = Loop(pico_host, chunk=chunk, max_rows=6)
    tokens, logits = {}, {}
    waiting = list(enumerate(names))
    step = 0
    while loop.busy or waiting:
        if waiting and step % 2 == 0:
            seed, name = waiting.pop(0)
            submit(loop, name, bank, seed, temperature=temperature)
        if step < 60 and step % 3 == 0:  # strangers who come, end after a few tokens, or are cancelled
            loop.submit(
                Request(f"stranger-{step}", prompt(step, 6), Share.of(bank[step % 3])),
                sampling=Sampling(max_new_tokens=1 + step % 4),
            )
        if step % 5 == 4:
            loop.cancel(f"stranger-{step - 1}")
        for spoken in loop.step():
            tokens.setdefault(spoken.id, []).append(spoken.token_id)
            logits.setdefault(spoken.id, []).append(spoken.logits_V)
        step += 1
    for id, (want, want_logits) in alone.items():
        assert tokens[id] == want, id
        torch.testing.assert_close(torch.stack(logits[id]), want_logits, **CLOSE)


def test_a_change_equals_an_uncached_replay(pico_host, pico_bank):
    """Every row of the loop against whole forwards under its schedule: the slow twin."""
    bank = pico_bank(3, 4)
    loop = Loop(pico_host)
    submit(loop, "shift", bank, 3)
    tokens, logits = write(loop, ["shift-3"])
    ids = [*prompt(3, 7), *tokens["shift-3"]]
    # Token t of the answer, at column 7 + t, is read under the share that is in force after hearing it.
    weight = torch.zeros(1, len(ids), 3)
    weight[:, : 7 + 2, 0] = 1
    weight[:, 7 + 2 : 7 + 6, 1] = 1
    weight[:, 7 + 6 :, [0, 2]] = 1
    with torch.no_grad():
        out = pico_host(torch.tensor([ids]), Mixture((Term(bank, Dense(weight)),)))
    torch.testing.assert_close(logits["shift-3"], out.logits[0, 6 : 6 + NEW], atol=2e-5, rtol=1e-4)


def test_what_was_evicted_is_seen_no_more_and_distances_stay(pico_host, pico_bank):
    """The twin: a forward over the whole text whose mask hides what was cut, at the old positions."""
    bank = pico_bank(3, 4)
    loop = Loop(pico_host)
    submit(loop, "evict", bank, 1)
    tokens, logits = write(loop, ["evict-1"])
    ids = torch.tensor([[*prompt(1, 5), *tokens["evict-1"]]])
    length = ids.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    # Cut on hearing token 3 (column 8) and token 5 (column 10): from there on columns 0-1, then 0-4 are gone.
    seen[8:, :2] = False
    seen[10:, :5] = False
    with torch.no_grad(), pico_host.running(Mixture.of(bank[1])):
        out = pico_host.module(input_ids=ids, attention_mask=seen[None, None])
    torch.testing.assert_close(logits["evict-1"], out.logits[0, 4 : 4 + NEW], atol=2e-5, rtol=1e-4)


def test_rereading_one_row_touches_no_other(pico_host, pico_bank):
    bank = pico_bank(3, 4)
    for mate in ("reread", "base"):
        loop = Loop(pico_host)
        submit(loop, "adapter", bank, 1)
        submit(loop, mate, bank, 2)
        tokens, logits = write(loop, ["adapter-1", f"{mate}-2"])
        if mate == "reread":
            want = tokens["adapter-1"], logits["adapter-1"]
    assert tokens["adapter-1"] == want[0]
    torch.testing.assert_close(logits["adapter-1"], want[1], **CLOSE)


def test_a_controller_that_changes_nothing_leaves_every_logit(pico_host, pico_bank):
    bank = pico_bank(3, 4)
    share = Share.of(bank[0])
    loop = Loop(pico_host)
    loop.submit(Request("a", prompt(0, 5), share), sampling=Sampling(max_new_tokens=NEW))
    want = write(loop, ["a"])[1]["a"]
    loop = Loop(pico_host)
    still = {step: Change() if step % 2 else Change(share) for step in range(NEW)}
    loop.submit(
        Request("a", prompt(0, 5)), sampling=Sampling(max_new_tokens=NEW), controller=Script(share, still)
    )
    assert torch.equal(write(loop, ["a"])[1]["a"], want)


def test_slots_are_idempotent(pico_host, pico_bank):
    bank = pico_bank(3, 4)
    adapters = [bank[k] for k in range(3)]
    scaled = Adapter({s: Factors(f.a_RI, f.b_OR, 0.5) for s, f in adapters[0].factors.items()}, name="half")
    pool = Pool(pico_host.sites, slots=2, r=4)

    def numbers(adapter):
        slot = pool.put(adapter)
        return {s: pool.bank.b[s][slot] @ pool.bank.a[s][slot] for s in pool.sites}

    first = numbers(scaled)
    again = numbers(scaled)
    for adapter in adapters:  # two slots: the first one is pushed out
        pool.put(adapter)
    assert scaled not in pool
    back = numbers(scaled)
    for site, want in first.items():
        f = adapters[0].factors[site]
        torch.testing.assert_close(want, 0.5 * f.b_OR @ f.a_RI, **CLOSE)
        assert torch.equal(again[site], want)
        assert torch.equal(back[site], want)
    assert len(pool) == 2


def test_what_acts_on_a_row_is_not_evicted(pico_bank):
    host = Host(make_llama())
    host.pool = Pool(host.sites, slots=2, r=4, base=host.fingerprint)
    bank = make_bank(host.sites, 4, 4)
    loop = Loop(host)
    for k in range(4):
        loop.submit(Request(str(k), prompt(k, 5), Share.of(bank[k])), sampling=Sampling(max_new_tokens=4))
    seen = []
    while loop.busy:
        loop.step()
        seen.append(loop.active)
        assert len(host.pool) <= 2
    assert max(seen) <= 2  # the others wait for a slot
    loop.submit(Request("both", prompt(0, 5), Share.of(bank[0], bank[1], bank[2])))
    with pytest.raises(PoolFullError, match="2 adapter slots"):
        loop.step()
    assert not loop.busy
    host.pool.pin(bank[0])
    with pytest.raises(ConfigError, match="acts on a row"):
        host.pool.evict(bank[0])


def test_rows_whose_gate_cannot_decide_hold_nothing():
    class Refuses(Once):
        def prepare(self, hidden_BTH, mask_BT):
            raise WeightsError("this gate is out of order")

    host = Host(make_llama())
    host.pool = Pool(host.sites, slots=2, r=4, base=host.fingerprint)
    bank = make_bank(host.sites, 2, 4)
    loop = Loop(host)
    gated = Share.of(bank[0], bank[1]) + Share(terms=(Term(bank, Refuses(32, len(bank))),))
    loop.submit(Request("gated", prompt(0, 5), gated))
    with pytest.raises(WeightsError, match="out of order"):
        loop.step()
    host.pool.evict(bank[0])
    host.pool.evict(bank[1])


def test_an_adapter_that_could_poison_others_is_refused(pico_host, pico_bank):
    adapter = pico_bank(1, 2)[0]
    wild = Adapter({s: Factors(f.a_RI, f.b_OR, 1e308) for s, f in adapter.factors.items()}, name="wild")
    with pytest.raises(ShapeError, match="wild holds NaN or infinity"):
        Pool(pico_host.sites, slots=2, r=4).put(wild)


@pytest.mark.parametrize("k", [1, 2, 16])
def test_rows_of_many_adapters_equal_each_alone(pico_host, pico_bank, k):
    bank = pico_bank(k, 4)
    shares = [Share.of(bank[i % k]) if i % 3 else Share() for i in range(20)]
    ids = torch.tensor([prompt(i, 6) for i in range(20)])
    cache = pico_host.new_cache()
    said = pico_host.step(ids, cache, shares)
    after = pico_host.step(said.logits_BV.argmax(-1)[:, None], cache, shares)
    for i, share in enumerate(shares):
        cache = pico_host.new_cache()
        one = pico_host.step(ids[i : i + 1], cache, [share])
        torch.testing.assert_close(one.logits_BV[0], said.logits_BV[i], **CLOSE)
        one = pico_host.step(one.logits_BV.argmax(-1)[:, None], cache, [share])
        torch.testing.assert_close(one.logits_BV[0], after.logits_BV[i], **CLOSE)


def test_a_step_says_what_does_not_fit(pico_host):
    cache = pico_host.new_cache()
    pico_host.step(torch.tensor([[3, 4]]), cache, [Share()])
    with pytest.raises(ShapeError, match="2 rows of tokens, 1 in the cache"):
        pico_host.step(torch.tensor([[3], [4]]), cache, [Share(), Share()])
    with pytest.raises(ShapeError, match="cannot cut 2 tokens"):
        cache.cut(0, 2)


def test_a_row_that_is_refused_takes_no_other_with_it(pico_host, pico_bank):
    bank = pico_bank(1, 4)
    wild = Adapter({s: Factors(f.a_RI, f.b_OR, 1e308) for s, f in bank[0].factors.items()}, name="wild")
    loop = Loop(pico_host)
    good = Share.of(bank[0])
    for id, share in (("a", good), ("wild", Share.of(wild)), ("b", good)):
        loop.submit(Request(id, prompt(0, 5), share), sampling=Sampling(max_new_tokens=3))
    with pytest.raises(ShapeError, match="wild holds"):
        loop.step()
    tokens, _ = write(loop, ["a", "b"])
    assert tokens["a"] == tokens["b"]


def test_a_row_without_finite_logits_is_named_and_touches_no_other():
    module = make_llama()
    with torch.no_grad():
        module.get_input_embeddings().weight[63] = float("nan")
    host = Host(module)
    refused: list[tuple[str, str]] = []
    loop = Loop(host, refused=lambda id, error: refused.append((id, str(error))))
    for id, ids in (("long", [*range(3, 15)]), ("bad", [63] * 20), ("short", [7, 8]), ("late", [9])):
        loop.submit(Request(id, tuple(ids), Share()), sampling=Sampling(max_new_tokens=12))
    tokens, _ = write(loop, ["long", "short", "late"])
    assert [id for id, _ in refused] == ["bad"]
    assert refused[0][1].startswith(
        "the logits of request bad are not finite: the base or an adapter holds NaN"
    )
    for id, ids in (("long", [*range(3, 15)]), ("short", [7, 8]), ("late", [9])):
        alone = Loop(host)
        alone.submit(Request(id, tuple(ids), Share()), sampling=Sampling(max_new_tokens=12))
        assert write(alone, [id])[0][id] == tokens[id]
    raising = Loop(host)
    raising.submit(Request("bad", (63,), Share()), sampling=Sampling(temperature=1.0))
    with pytest.raises(WeightsError, match="not finite"):
        list(raising.run())
    assert not raising.busy


def test_who_stops_listening_leaves_no_adapter_in_its_slot(pico_host, pico_bank):
    loop = Loop(pico_host)
    adapter = pico_bank(1, 2)[0]
    share = Share.of(adapter)
    for id in ("first", "second"):
        loop.submit(Request(id, (3, 4, 5), share), sampling=Sampling(max_new_tokens=8))
    said = loop.run()
    next(said)
    assert pico_host.pool.pinned(adapter)
    said.close()
    assert not loop.busy
    assert not pico_host.pool.pinned(adapter)


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_change_from_outside_equals_a_controllers(pico_host, pico_bank, chunk):
    bank = pico_bank(3, 4)
    twin = Loop(pico_host)
    submit(twin, "shift", bank, 3)
    want, want_logits = write(twin, ["shift-3"])
    loop = Loop(pico_host, chunk=chunk)
    loop.submit(Request("outside", prompt(3, 7), Share.of(bank[0])), sampling=Sampling(max_new_tokens=NEW))
    loop.submit(Request("mate", prompt(8, 5), Share.of(bank[1])), sampling=Sampling(max_new_tokens=NEW))
    said = []
    while loop.busy:
        said += [spoken for spoken in loop.step() if spoken.id == "outside"]
        for written, share in ((3, Share.of(bank[1])), (7, Share.of(bank[2], bank[0]))):
            if len(said) == written:
                assert loop.change("outside", share) == written
    assert [spoken.token_id for spoken in said] == want["shift-3"]
    torch.testing.assert_close(
        torch.stack([spoken.logits_V for spoken in said]), want_logits["shift-3"], **CLOSE
    )
    assert loop.change("outside", Share()) is None
    assert not any(pico_host.pool.pinned(bank_adapter) for bank_adapter in (bank[0], bank[1], bank[2]))


def test_a_row_that_waits_or_is_read_can_be_changed_and_a_controllers_row_cannot(pico_host, pico_bank):
    bank = pico_bank(3, 4)
    old, new = Share.of(bank[0]), Share.of(bank[1])
    loop = Loop(pico_host, chunk=3, max_rows=1)
    for id in ("read", "waits"):
        loop.submit(Request(id, prompt(3, 7), old), sampling=Sampling(max_new_tokens=2))
    loop.step()
    assert [loop.change(id, new) for id in ("read", "waits")] == [0, 0]
    said = [spoken for _ in range(12) for spoken in loop.step()]
    assert [spoken.id for spoken in said] == ["read", "read", "waits", "waits"]
    assert all(spoken.share.adapters == new.adapters for spoken in said)
    submit(loop, "shift", bank, 3)
    with pytest.raises(ConfigError, match="controller alone"):
        loop.change("shift-3", Share())


def test_several_rows_change_together_or_not_at_all(pico_llama, pico_bank):
    one, two, three = (pico_bank(3, 4)[k] for k in range(3))
    host = Host(pico_llama, name="pico")
    host.pool = Pool(host.sites, slots=2, r=4)
    loop = Loop(host, max_rows=2)
    for id, adapter in (("first", one), ("second", two), ("waits", one)):
        loop.submit(Request(id, prompt(3, 7), Share.of(adapter)), sampling=Sampling(max_new_tokens=4))
    loop.step()
    every = ["waits", "first", "gone", "second"]
    with pytest.raises(PoolFullError):
        loop.change_all(every, Share.of(three))
    held = {row.request.id: row.share.adapters[0][0] for row in [*loop.rows, *loop.waiting]}
    assert held == {"first": one, "second": two, "waits": one}
    assert loop.change_all(every, Share.of(two)) == [0, 1, None, 1]
    assert {row.share.adapters[0][0] for row in [*loop.rows, *loop.waiting]} == {two}
    assert not host.pool.pinned(one)
    while loop.busy:
        loop.step()
    assert not host.pool.pinned(two)
