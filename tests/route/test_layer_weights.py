"""Learned weights per layer and hard top-1 with a straight-through gradient, against plain loops."""

import pytest
import torch
from route_reference import dot, rms, softmax
from torch import nn

from tiny_models import make_bank
from weft.engine import take_rows
from weft.errors import ConfigError, ShapeError
from weft.host import Host, sites_of
from weft.route import LayerWeights, Top1, XLora, layers_of, learn
from weft.route.layers import by_layer
from weft.route.top1 import straight_through
from weft.types import Bank, Dense, Mixture, Rows, Term, Tokens

K, H = 3, 32
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def ids_BT():
    return torch.randint(3, 64, (2, 6), generator=torch.Generator().manual_seed(4))


def drawn(gate, seed=0):
    for parameter in gate.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
    return gate


@pytest.mark.parametrize("kind", ["free", "softmax"])
def test_layer_weights_are_one_delta_per_site(pico_host, pico_bank, ids_BT, kind):
    bank = pico_bank(K, 2)
    assert layers_of(bank) == (0, 1)
    gate = drawn(LayerWeights(K, layers_of(bank), kind=kind))
    got = pico_host(ids_BT, Mixture((Term(bank, gate),))).logits
    a, b = {}, {}
    for site in bank.sites:
        weights = gate.value_LK[site.layer].tolist()
        weights = weights if kind == "free" else softmax(weights)
        delta = sum(w * (bank.b[site][k].double() @ bank.a[site][k].double()) for k, w in enumerate(weights))
        a[site], b[site] = torch.eye(site.in_features)[None], delta.float()[None]
    want = pico_host(ids_BT, Mixture.of(Bank(("one",), a, b))).logits
    torch.testing.assert_close(got, want, **CLOSE)


def test_they_begin_as_the_uniform_average(pico_host, pico_bank, ids_BT):
    bank = pico_bank(K, 2)
    want = pico_host(ids_BT, Mixture.dense(bank, torch.full((1, K), 1 / K))).logits
    for kind in ("free", "softmax"):
        got = pico_host(ids_BT, Mixture((Term(bank, LayerWeights(K, (0, 1), kind=kind)),))).logits
        torch.testing.assert_close(got, want, **CLOSE)


def test_sites_outside_the_layers_have_weights_too(pico_llama, ids_BT):
    sites = sites_of(pico_llama, ["q_proj", "lm_head"])
    host = Host(pico_llama, target_modules=["q_proj", "lm_head"])
    bank = make_bank(sites, 2, 2)
    assert layers_of(bank) == (-1, 0, 1)
    gate = LayerWeights(2, layers_of(bank))
    with torch.no_grad():
        gate.value_LK[1:] = 0
    few = {s for s in sites if s.layer == -1}
    head = Bank(bank.names, {s: bank.a[s] for s in few}, {s: bank.b[s] for s in few})
    want = host(ids_BT, Mixture.dense(head, torch.full((1, 2), 0.5))).logits
    torch.testing.assert_close(host(ids_BT, Mixture((Term(bank, gate),))).logits, want, **CLOSE)
    with pytest.raises(ShapeError, match=r"lies in layer 1, these weights are for \[0\]"):
        LayerWeights(2, (0,)).assign(torch.zeros(1, 1, 32), sites[-1], {})


def test_rows_may_have_layer_weights_of_their_own(pico_host, pico_bank, ids_BT):
    bank = pico_bank(K, 2)
    weight_BLK = torch.randn(2, 2, K, generator=torch.Generator().manual_seed(8), requires_grad=True)
    got = pico_host(ids_BT, by_layer(bank, weight_BLK)).logits
    want = []
    for row, weight_LK in zip(ids_BT, weight_BLK, strict=True):
        gate = LayerWeights(K, (0, 1))
        with torch.no_grad():
            gate.value_LK.copy_(weight_LK)
        want.append(pico_host(row[None], Mixture((Term(bank, gate),))).logits)
    torch.testing.assert_close(got, torch.cat(want), **CLOSE)
    [grad_BLK] = torch.autograd.grad(got.square().sum(), weight_BLK)
    assert (grad_BLK != 0).all()
    one = take_rows(by_layer(bank, weight_BLK), torch.tensor([1]))
    torch.testing.assert_close(pico_host(ids_BT[1:], one).logits, want[1], **CLOSE)
    for shape in ((2, 3, K), (2, 2, K + 1)):
        with pytest.raises(ShapeError, match=r"2 layers and 3 adapters are \[B, L, K\]"):
            by_layer(bank, torch.zeros(shape))


def test_a_few_rows_teach_each_layer_its_adapter(pico_host, pico_bank, ids_BT):
    """The target takes adapter 2 in layer 0 and adapter 0 in layer 1; only the loss tells."""
    bank = pico_bank(K, 2, scale=0.4)
    truth = LayerWeights(K, (0, 1))
    with torch.no_grad():
        truth.value_LK.copy_(torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
        target = pico_host(ids_BT, Mixture((Term(bank, truth),))).logits.softmax(-1)
    gate = LayerWeights(K, (0, 1))

    def loss(step):
        logits = pico_host(ids_BT, Mixture((Term(bank, gate),))).logits
        return -(target * logits.log_softmax(-1)).sum(-1).mean()

    losses = learn(gate, loss, steps=50, learning_rate=0.1)
    assert losses[-1] < losses[0] - 0.1
    torch.testing.assert_close(gate.weight_LK, truth.weight_LK, atol=0.15, rtol=0)


def test_straight_through_is_one_forward_and_softmax_backward():
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = straight_through(logits)
    assert torch.equal(weight, torch.eye(4)[logits.argmax(-1)])
    like = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    [got] = torch.autograd.grad((weight * like).sum(), logits)
    [want] = torch.autograd.grad((logits.softmax(-1) * like).sum(), logits)
    torch.testing.assert_close(got, want)


def test_top1_equals_loops_in_both_modes(pico_host, pico_bank, ids_BT):
    bank = pico_bank(K, 2)
    gate = Top1(drawn(XLora(K, H, temperature=0.7)))
    seen = {}

    class Watched(Top1):
        def assign(self, x_BTI, site, state):
            given, state = super().assign(x_BTI, site, state)
            seen.setdefault(site, (x_BTI.detach(), given))
            return given, state

    watched = Watched(gate.router)
    soft = pico_host(ids_BT, Mixture((Term(bank, watched.train()),))).logits
    x_BTI, given = next(iter(seen.values()))
    assert isinstance(given, Dense)
    want = []
    for row in x_BTI:
        for x in row:
            z = [dot(v, rms(x)) + c.item() for v, c in zip(
                gate.router.weight_LKH[0], gate.router.bias_LK[0], strict=True)]  # fmt: skip
            want.append(max(range(K), key=z.__getitem__))
    assert given.weight.argmax(-1).flatten().tolist() == want
    assert set(given.weight.flatten().tolist()) == {0.0, 1.0}
    assert len(set(want)) > 1
    soft.square().mean().backward()
    assert gate.router.weight_LKH.grad.abs().sum((0, 2)).min() > 0  # every adapter had a say

    seen.clear()
    hard = pico_host(ids_BT, Mixture((Term(bank, watched.eval()),))).logits
    assert isinstance(next(iter(seen.values()))[1], Tokens)
    torch.testing.assert_close(hard, soft, **CLOSE)


def test_top1_learns_which_token_wants_which_adapter(pico_host, pico_bank):
    """Tokens 10 want adapter 0, tokens 20 adapter 1: hard from the first step, learned by the gradient."""
    bank = pico_bank(2, 2, scale=0.4)
    ids_BT = torch.tensor([[10, 20, 10, 10, 20, 20], [20, 10, 20, 10, 10, 20]])
    with torch.no_grad():
        wanted = Mixture((Term(bank, _fixed((ids_BT == 20).long())),))
        target = pico_host(ids_BT, wanted).logits.softmax(-1)
    gate = Top1(XLora(2, H, seed=3))

    def loss(step):
        logits = pico_host(ids_BT, Mixture((Term(bank, gate),))).logits
        return -(target * logits.log_softmax(-1)).sum(-1).mean()

    losses = learn(gate, loss, steps=20, learning_rate=0.15)
    assert losses[-1] < losses[0] - 0.05
    with torch.no_grad():
        got = pico_host(ids_BT, Mixture((Term(bank, gate.eval()),))).logits.softmax(-1)
    assert not gate.training
    torch.testing.assert_close(got, target, atol=1e-3, rtol=1e-2)


def _fixed(index_BT):
    from weft.types import Tokens

    return Tokens(index_BT)


def test_learning_that_cannot_be(pico_host, pico_bank, ids_BT):
    gate = LayerWeights(K, (0, 1))
    start = gate.value_LK.detach().clone()

    def turns_bad(step):
        return gate.value_LK.square().sum() * (float("nan") if step else 1.0)

    with pytest.raises(ShapeError, match="the loss of step 1 is nan; the gate is as it was"):
        learn(gate, turns_bad, steps=3)
    assert torch.equal(gate.value_LK, start)
    with pytest.raises(ShapeError, match="does not depend on the gate"):
        learn(gate, lambda step: torch.ones(()), steps=3)
    for options in ({"steps": 0}, {"learning_rate": 0.0}, {"max_grad_norm": 0.0}):
        with pytest.raises(ConfigError):
            learn(gate, turns_bad, **options)
    with pytest.raises(ConfigError, match="no parameter to learn"):
        learn(gate.requires_grad_(False), turns_bad)
    for options in ({"count": 0}, {"layers": ()}, {"layers": (1, 0)}, {"layers": (-2,)}, {"kind": "hard"}):
        with pytest.raises((ConfigError, TypeError)):
            LayerWeights(**({"count": 2, "layers": (0,)} | options))
    bank = pico_bank(2, 2)
    with pytest.raises(ShapeError, match="3 weights for 2 adapters"):
        pico_host(ids_BT, Mixture((Term(bank, LayerWeights(3, (0, 1))),)))


def test_a_layer_of_one_adapter_is_that_adapter(pico_host, pico_bank, ids_BT):
    one = pico_bank(1, 2)
    want = pico_host(ids_BT, Mixture.of(one)).logits
    for gate in (LayerWeights(1, (0, 1)), Top1(XLora(1, H)).eval(), Top1(XLora(1, H)).train()):
        torch.testing.assert_close(pico_host(ids_BT, Mixture((Term(one, gate),))).logits, want, **CLOSE)
    late = Top1(XLora(1, H, layers=(1,))).eval()
    state = late.prepare(torch.zeros(1, 1, H), torch.ones(1, 1).bool())
    assert isinstance(late.assign(torch.zeros(1, 1, H), pico_host.sites[0], state)[0], Rows)
