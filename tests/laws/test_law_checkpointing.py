"""Law 11: gradients with and without gradient checkpointing are equal."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gate_once import Once
from tiny_models import make_bank, make_llama
from weft.errors import ConfigError
from weft.host import Host
from weft.types import AbstractGate, Dense, Mixture, Rows, Term, Tokens, TopK

K, ROWS, COLUMNS = 3, 4, 6


class Router(AbstractGate):
    """Learned: two adapters per token by the hidden state."""

    def __init__(self, sites):
        super().__init__()
        torch.manual_seed(1)
        self.map = nn.ModuleDict({s.path.replace(".", "-"): nn.Linear(s.in_features, K) for s in sites})

    def assign(self, x_BTI, site, state):
        weight, index = self.map[site.path.replace(".", "-")](x_BTI).softmax(-1).topk(2)
        return TopK(index, weight), state


def gate_of(name, sites):
    rng = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.rand(ROWS, COLUMNS, K, generator=rng))
    if name == "topk":
        return TopK(weight.topk(2).indices, weight[..., :2]), [weight]
    if name in ("dense-token", "dense-short", "dense-row"):
        part = {"dense-token": weight, "dense-short": weight[:, :3], "dense-row": weight[:, 0]}[name]
        return Dense(part), [weight]
    gate = {
        "rows": lambda: Rows(torch.tensor([2, 0, -1, 2])),
        "tokens": lambda: Tokens(torch.randint(-1, K, (ROWS, COLUMNS), generator=rng)),
        "router": lambda: Router(sites),
        "once": lambda: Once(32, K, seed=2),
    }[name]()
    return gate, list(gate.parameters()) if isinstance(gate, AbstractGate) else []


def gradients(host, names, combine="sum", rank=4):
    """Of A, B and the gates, after forwards under different mixtures and one backward."""
    ids = torch.randint(3, 64, (len(names), ROWS, COLUMNS), generator=torch.Generator().manual_seed(0))
    leaves, loss = [], torch.zeros(())
    for i, name in enumerate(names):
        bank = make_bank(host.sites, K, rank, seed=i)
        for tensor in (*bank.a.values(), *bank.b.values()):
            leaves.append(tensor.requires_grad_())
        gate, parameters = gate_of(name, host.sites)
        leaves += parameters
        out = host(ids[i], Mixture((Term(bank, gate, combine),)))
        loss = loss + out.logits.float().logsumexp(-1).square().mean() * (i + 1)
    loss.backward()
    return [leaf.grad for leaf in leaves]


@pytest.fixture(scope="module")
def hosts():
    """A host, and its twin that checkpoints."""
    plain, checkpointed = Host(make_llama()), Host(make_llama())
    checkpointed.gradient_checkpointing_enable()
    return plain, checkpointed


NAMES = ["rows", "tokens", "topk", "dense-row", "dense-token", "dense-short", "router", "once"]


@pytest.mark.parametrize("combine", ["sum", "average"])
@pytest.mark.parametrize("rank", [4, 64])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_equal(hosts, name, rank, combine):
    plain, again = (gradients(host, [name], combine, rank) for host in hosts)
    assert any(grad is not None and grad.any() for grad in plain)
    for want, got in zip(plain, again, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_two_mixtures_before_one_backward(hosts):
    names = ["rows", "router", "dense-token", "once"]
    plain, again = (gradients(host, names) for host in hosts)
    for want, got in zip(plain, again, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_backward_inside_another_mixture(hosts, pico_bank):
    """The recompute sees the mixture of its forward, not the one in force while it happens."""
    found = []
    for host in hosts:
        bank, other = make_bank(host.sites, K, 4), make_bank(host.sites, K, 4, seed=9)
        leaf = bank.b[host.sites[0]].requires_grad_()
        out = host(torch.arange(8).view(2, 4) + 3, Mixture.rows(bank, [0, 2]))
        with host.running(Mixture.rows(other, [1, 1])):
            out.logits.square().mean().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-5)


def test_layers_are_recomputed(hosts):
    """Or the law would hold for want of checkpointing."""
    calls = []
    for host in hosts:
        calls.append(0)
        bank = make_bank(host.sites, 1, 2)
        for tensor in bank.b.values():
            tensor.requires_grad_()

        def count(*_):
            calls[-1] += 1

        handle = host.module.model.layers[0].self_attn.q_proj.register_forward_hook(count)
        host(torch.arange(8).view(2, 4) + 3, Mixture.of(bank)).logits.sum().backward()
        handle.remove()
    assert calls == [1, 2]


def test_own_checkpoints_of_a_plain_module():
    torch.manual_seed(0)
    found = []
    host = Host(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)))
    x = torch.randn(3, 6)
    for again in (False, True):
        bank = make_bank(host.sites, 2, 2)
        leaf = bank.a[host.sites[0]].requires_grad_()
        with host.running(Mixture.rows(bank, [0, -1, 1])):
            if again:
                y = checkpoint(host.module, x, use_reentrant=False, context_fn=host.checkpoint_contexts)
            else:
                y = host.module(x)
        y.square().sum().backward()
        found.append(leaf.grad)
    assert found[0].any()
    torch.testing.assert_close(found[1], found[0])
    with pytest.raises(ConfigError, match="Sequential is no Hugging Face model"):
        host.gradient_checkpointing_enable()
