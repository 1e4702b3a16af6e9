"""A library that changes while it serves: every place against a bank made afresh, the others untouched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from route_library import TASKS, Letters

from tiny_models import make_bank
from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError
from weft.route import Arrow, Blend, LiveLibrary, Nearest, Spectr, routed
from weft.types import Adapter, Bank, Factors, Mixture, Rows, Term

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def adapters_of(sites, count, rank=2):
    bank = make_bank(sites, count, rank)
    return [bank[k] for k in range(count)]


@pytest.fixture(scope="module")
def ids_BT():
    return torch.randint(3, 64, (2, 6), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", [Arrow, Spectr])
@torch.no_grad()
def test_a_gate_follows_a_changing_library(pico_host, ids_BT, kind):
    one, two, three, four = adapters_of(pico_host.sites, 4)
    live = LiveLibrary(pico_host.sites, capacity=3, r=2)
    gate = kind(live.bank, top_k=2)
    base = pico_host(ids_BT).logits
    assert torch.equal(pico_host(ids_BT, Mixture((Term(live.bank, gate),))).logits, base)

    def check(*there):
        fresh = Bank.stack(there)
        want = pico_host(ids_BT, Mixture((Term(fresh, kind(fresh, top_k=min(2, len(there)))),))).logits
        got = pico_host(ids_BT, Mixture((Term(live.bank, gate),))).logits
        torch.testing.assert_close(got, want, **CLOSE)

    for adapter in (one, two, three):
        gate.update(live.bank, live.add(adapter))
    check(one, two, three)
    # Storage and values of the others, before and after one goes and another comes.
    kept = gate.directions
    before = {path: (v.data_ptr(), v[[0, 2]].clone()) for path, v in kept.items()}
    bank = {s: (live.bank.a[s].data_ptr(), live.bank.a[s][[0, 2]].clone()) for s in live.bank.sites}
    place = live.remove(two.name)
    gate.update(live.bank, place)
    check(one, three)
    assert live.add(four) == place == 1
    gate.update(live.bank, place)
    check(one, three, four)
    assert live.bank.names == (one.name, four.name, three.name)
    for path, (pointer, values) in before.items():
        assert kept[path].data_ptr() == pointer
        assert torch.equal(kept[path][[0, 2]], values)
    for site, (pointer, values) in bank.items():
        assert live.bank.a[site].data_ptr() == pointer
        assert torch.equal(live.bank.a[site][[0, 2]], values)
    with pytest.raises(ShapeError, match="other sites or another size"):
        gate.update(Bank.stack([one]), 0)
    with pytest.raises(ShapeError, match="run from 0 to 2"):
        gate.update(live.bank, 3)
    # NaN in one adapter: the gate refuses it and stays as it was.
    first = live.bank.sites[0]
    live.bank.a[first][1, 0, 0] = float("nan")
    with pytest.raises(ShapeError, match="NaN"):
        gate.update(live.bank, 1)
    assert all(torch.isfinite(v).all() for v in kept.values())


@given(st.lists(st.integers(0, 4), max_size=12))
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_any_order_of_coming_and_going(pico_host, moves):
    """A move brings an adapter that is away, or takes one that is there."""
    sites = pico_host.sites[:3]
    known = adapters_of(sites, 5)
    live = LiveLibrary(sites, capacity=5, r=3)
    there = {}
    for k in moves:
        name = known[k].name
        if name in there:
            assert live.remove(name) == there.pop(name)
        else:
            there[name] = live.add(known[k])
    assert len(live) == len(there)
    for place, name in enumerate(live.bank.names):
        for site in sites:
            delta = live.bank.b[site][place] @ live.bank.a[site][place]
            a_RI, b_OR, scaling = known[int(name[-1])].factors[site] if name else (None, None, 0)
            want = torch.zeros_like(delta) if not name else scaling * b_OR @ a_RI
            torch.testing.assert_close(delta, want)
    assert {name: live.bank.names.index(name) for name in there} == there


@torch.no_grad()
def test_routers_leave_free_places_out(pico_host, ids_BT):
    made = adapters_of(pico_host.sites, 3)
    live = LiveLibrary(pico_host.sites, capacity=5, r=2)
    index, blend = Nearest(Letters()), Blend(Letters(), {})
    for adapter, (name, text) in zip(made, TASKS.items(), strict=True):
        live.add(Adapter(adapter.factors, name=name))
        index.add(name, [text])
        blend.add(name, text)
    live.remove("upper")
    mixture = routed(index, ["count the letters", "write it backwards"], live.bank)
    assert isinstance(mixture.terms[0].gate, Rows)
    assert mixture.terms[0].gate.index_B.tolist() == [2, 0]
    [row, _] = routed(blend, ["count the letters", "write"], live.bank).terms[0].gate.weight
    assert row[[1, 3, 4]].tolist() == [0, 0, 0]
    assert float(row.sum()) == pytest.approx(1)
    want = pico_host(ids_BT, Mixture.of(made[2])).logits
    got = pico_host(ids_BT, routed(index, ["count the letters"], live.bank)).logits
    torch.testing.assert_close(got, want, **CLOSE)


def test_an_index_touches_no_other_entry():
    """The vectors of the others are the very same tensors; a label is read once, when it comes."""

    class Counting(Letters):
        def __init__(self):
            super().__init__()
            self.read = []

        def encode(self, cues):
            self.read += [cue.text for cue in cues]
            return super().encode(cues)

    for router, add in (
        (Nearest(Counting()), lambda r, n, t: r.add(n, [t])),
        (Blend(Counting(), {}), lambda r, n, t: r.add(n, t)),
    ):
        for name, text in TASKS.items():
            add(router, name, text)
        before = {name: vector.data_ptr() for name, vector in router._vectors.items()}
        add(router, "late", "abc")
        router.remove("upper")
        assert {n: v.data_ptr() for n, v in router._vectors.items() if n != "late"} == {
            n: p for n, p in before.items() if n != "upper"
        }
        assert router.encoder.read == [*TASKS.values(), "abc"]
        router.weights(["cab"], ["late", "count"])
        assert router.encoder.read[4:] == ["cab"]
        with pytest.raises(ConfigError, match="late"):
            add(router, "late", "abc")
        with pytest.raises(UnknownNameError, match="'upper'"):
            router.remove("upper")


def test_adapters_that_cannot_join_leave_no_trace(pico_host):
    sites = pico_host.sites[:3]
    [one, two] = adapters_of(sites, 2)
    live = LiveLibrary(sites, capacity=1, r=2, base="weft1-here")
    broken = {s: Factors(f.a_RI * float("nan"), f.b_OR, 1.0) for s, f in one.factors.items()}
    wide = adapters_of(sites, 1, rank=3)[0]
    foreign = adapters_of(pico_host.sites[:4], 1)[0]
    for adapter, error, match in (
        (Adapter(broken, name="broken"), ShapeError, "broken holds NaN"),
        (wide, ShapeError, "has rank 3, this library has room for 2"),
        (foreign, UnknownNameError, "does not offer"),
        (
            Adapter(one.factors, base="weft1-there", name="x"),
            BaseMismatchError,
            "belongs to base weft1-there",
        ),
        (Adapter(one.factors, name=""), ConfigError, "without a name"),
    ):
        with pytest.raises(error, match=match):
            live.add(adapter)
    assert len(live) == 0
    assert not any(tensor.any() for tensor in (*live.bank.a.values(), *live.bank.b.values()))
    live.add(one)
    with pytest.raises(ConfigError, match="remove it first"):
        live.add(one)
    with pytest.raises(ConfigError, match="all 1 places are taken"):
        live.add(two)
    for name in ("", two.name):
        with pytest.raises(UnknownNameError):
            live.remove(name)
    for options in ({"capacity": 0, "r": 1}, {"capacity": 1, "r": 0}):
        with pytest.raises(ConfigError):
            LiveLibrary(sites, **options)
    with pytest.raises(ConfigError):
        LiveLibrary((), capacity=1, r=1)
