"""Law 8: soft descent tends to hard; depth 0 is one LoRA; leaf counts add up; gradients follow use."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tiny_models import make_bank
from weft.route import Tree, TreeGate, full
from weft.route.tree_losses import counts
from weft.types import Bank, Mixture

H = 32
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SCOPES = [{"scope": "token"}, {"scope": "token", "layers": (0, 1)}, {"scope": "sequence"}]


def tree_of(sites, depth, *, shared=False, **options):
    leaves = full(depth)
    bank = make_bank(sites, len(leaves), 2, seed=depth)
    for tensor in (*bank.a.values(), *bank.b.values()):
        tensor.requires_grad_()
    gate = TreeGate(leaves, H, seed=depth, **options).eval()
    # Biases too, so that the law is not one about directions alone.
    nn.init.normal_(gate.bias_LN, std=0.2, generator=torch.Generator().manual_seed(depth))
    return Tree(bank, gate, make_bank(sites, 1, 2, seed=9) if shared else None)


@pytest.fixture(scope="module")
def ids_BT():
    return torch.randint(3, 64, (5, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("options", SCOPES)
@pytest.mark.parametrize("depth", [1, 3, 6])
@torch.no_grad()
def test_soft_tends_to_hard(pico_host, ids_BT, depth, options, shared):
    def logits(descent, temperature):
        tree = tree_of(
            pico_host.sites, depth, shared=shared, descent=descent, temperature=temperature, **options
        )
        return pico_host(ids_BT, tree.mixture).logits

    hard = logits("hard", 1.0)
    gaps = [float((logits("soft", t) - hard).abs().max()) for t in (1.0, 1e-2, 1e-5)]
    assert gaps[0] > 0.05
    assert gaps[0] > gaps[1] >= gaps[2]
    assert gaps[2] < 1e-3


@given(
    depth=st.integers(0, 6),
    seed=st.integers(0, 9),
    size=st.floats(0.1, 30),
    temperature=st.sampled_from([1e-6, 1e-3, 0.5, 1.0, 10.0]),
)
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_weights_are_shares_and_tend_to_one_leaf(depth, seed, size, temperature):
    gate = TreeGate(full(depth), 8, temperature=temperature, seed=seed)
    logits = torch.randn(2, 5, 2**depth - 1, generator=torch.Generator().manual_seed(seed)) * size
    # Keep clear of a tie, where soft stays one half at every temperature and hard turns right.
    logits = logits + 0.01 * logits.sign()
    weight, leaf = gate.weights_of(logits), gate.leaf_of(logits)
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(2, 5), atol=1e-5, rtol=0)
    cold = TreeGate(full(depth), 8, temperature=1e-5).weights_of(logits)
    torch.testing.assert_close(cold, nn.functional.one_hot(leaf, 2**depth).float(), atol=1e-5, rtol=0)
    assert int(counts(leaf, 2**depth).sum()) == 10


@pytest.mark.parametrize("descent", ["soft", "hard"])
@pytest.mark.parametrize("options", SCOPES)
@torch.no_grad()
def test_depth_0_is_one_lora(pico_host, ids_BT, options, descent):
    tree = tree_of(pico_host.sites, 0, descent=descent, **options)
    got = pico_host(ids_BT, tree.mixture).logits
    torch.testing.assert_close(got, pico_host(ids_BT, Mixture.of(tree.leaves)).logits, **CLOSE)
    assert sum(p.numel() for p in tree.gate.parameters()) == 0


@pytest.mark.parametrize("depth", [0, 2, 4])
@pytest.mark.parametrize("options", SCOPES)
@torch.no_grad()
def test_leaf_counts_add_up(pico_host, ids_BT, depth, options):
    tree = tree_of(pico_host.sites, depth, **options)
    mask_BT = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 1, 4, 7, 2)])
    decisions = pico_host(ids_BT, tree.mixture, mask_BT=mask_BT).states[tree.gate]
    assert len(decisions) == len(options.get("layers", (0,)))
    for decided in decisions.values():
        leaf_BT = tree.gate.leaf_of(decided.logits)
        assert decided.logits.shape == (5, 1 if options["scope"] == "sequence" else 7, 2**depth - 1)
        found = counts(leaf_BT.expand(5, 7), 2**depth, mask_BT.bool())
        assert found.shape == (2**depth,)
        assert int(found.sum()) == int(mask_BT.sum())
        for k in range(2**depth):
            want = sum(
                int(leaf_BT.expand(5, 7)[b, t]) == k for b in range(5) for t in range(7) if mask_BT[b, t]
            )
            assert int(found[k]) == want


@pytest.mark.parametrize("options", SCOPES)
def test_leaves_that_are_not_taken_learn_in_soft_descent_alone(pico_host, ids_BT, options):
    for descent in ("hard", "soft"):
        tree = tree_of(pico_host.sites, 4, descent=descent, **options)
        out = pico_host(ids_BT[:2], tree.mixture)
        out.logits.square().mean().backward()
        states = out.states
        for site in pico_host.sites:
            # The decision that this site followed.
            group = max((n for n, at in enumerate(tree.gate.layers) if at <= site.layer), default=0)
            leaf_BT = tree.gate.leaf_of(states[tree.gate][group].logits).expand(2, 7)
            taken = leaf_BT.unique()
            assert len(taken) < 16
            untaken = [k for k in range(16) if k not in taken.tolist()]
            for tensors in (tree.leaves.a, tree.leaves.b):
                size_K = tensors[site].grad.abs().amax((1, 2))
                # The query of a first token has one key to look at, and so nothing to learn.
                assert size_K[leaf_BT[:, 1:].unique()].min() > 0
                if descent == "hard":
                    assert size_K[untaken].max() == 0
                else:
                    assert size_K[untaken].min() > 0
        weight = tree.gate.weight_LNH
        if descent == "hard":
            assert weight.grad is None
        else:
            assert weight.grad is not None
            assert weight.grad.abs().amax(-1).min() > 0


@torch.no_grad()
def test_a_batch_mixes_leaves_freely(pico_host, ids_BT):
    """One LoRA for a whole batch is what other trees need on one device; here each row keeps its own."""
    tree = tree_of(pico_host.sites, 3, scope="sequence")
    taken = pico_host.prepare(ids_BT, tree.mixture)[tree.gate][0].assignment.index_B
    assert len(taken.unique()) > 1
    got = pico_host(ids_BT, tree.mixture).logits
    for row, leaf in enumerate(taken.tolist()):
        bank = Bank(
            ("one",),
            {s: a[leaf : leaf + 1] for s, a in tree.leaves.a.items()},
            {s: b[leaf : leaf + 1] for s, b in tree.leaves.b.items()},
        )
        want = pico_host(ids_BT[row : row + 1], Mixture.of(bank)).logits[0]
        torch.testing.assert_close(got[row], want, **CLOSE)
