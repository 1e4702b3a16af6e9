"""A tree whose leaves lie on several devices: the same outputs and gradients, and only own tokens travel.

On one CPU every device is the same, but each part's tokens are gathered, sent, and brought back as they are
over a wire; the hop itself is tested where there is a second device.
"""

from dataclasses import replace

import pytest
import torch
from every_kind import assignment_of, loop, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from decoding import decode
from tiny_models import make_bank, make_llama
from weft.engine import Sampling
from weft.errors import BaseMismatchError, ConfigError, ShapeError
from weft.host import Host, span
from weft.host.placed import Placed
from weft.route import Tree, TreeGate, full, grow, place_leaves
from weft.route.tree_losses import counts
from weft.types import Bank, Mixture, Rows, Term

H = 32
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SCOPES = [{"scope": "token"}, {"layers": (0, 1)}, {"layers": (1,)}, {"scope": "sequence"}]
LENGTHS = (7, 1, 4, 7, 2)


def make_tree(sites, leaves, *, shared=False, seed=4, grad=False, **options):
    bank = make_bank(sites, len(leaves), 2, seed=seed)
    for tensor in (*bank.a.values(), *bank.b.values()):
        tensor.requires_grad_(grad)
    gate = TreeGate(leaves, H, seed=seed, **options).eval()
    nn.init.normal_(gate.bias_LN, std=0.2, generator=torch.Generator().manual_seed(seed))
    return Tree(bank, gate, make_bank(sites, 1, 3, seed=seed + 100) if shared else None)


@pytest.fixture(scope="module")
def batch():
    """Rows of several lengths, padded on the left."""
    ids_BT = torch.randint(3, 64, (len(LENGTHS), 7), generator=torch.Generator().manual_seed(0))
    return ids_BT, torch.tensor([[0] * (7 - n) + [1] * n for n in LENGTHS])


@pytest.fixture
def sent(monkeypatch):
    """The shape of what arrived, and the number of adapters, for everything that a bank computed."""
    seen = []
    original = span.contribution

    def watch(x_BTI, a_KRI, b_KOR, plan, combine):
        seen.append((tuple(x_BTI.shape), len(a_KRI)))
        return original(x_BTI, a_KRI, b_KOR, plan, combine)

    monkeypatch.setattr(span, "contribution", watch)
    return seen


def gradients(host, tree, mixture, batch):
    """The logits that the mask shows, and the gradient of every leaf and node."""
    ids_BT, mask_BT = batch
    learned = [*tree.leaves.a.values(), *tree.leaves.b.values(), *tree.gate.parameters()]
    logits = host(ids_BT, mixture, mask_BT=mask_BT).logits[mask_BT.bool()]
    found = torch.autograd.grad(logits.square().mean(), learned, allow_unused=True)
    return logits.detach(), [
        torch.zeros_like(t) if g is None else g for t, g in zip(learned, found, strict=True)
    ]


@pytest.mark.parametrize("descent", ["hard", "soft"])
@pytest.mark.parametrize("options", SCOPES)
@pytest.mark.parametrize(("depth", "devices"), [(0, 1), (1, 1), (1, 2), (2, 3), (3, 2), (3, 4)])
def test_outputs_and_gradients_are_those_of_the_tree(pico_host, batch, depth, devices, options, descent):
    tree = make_tree(pico_host.sites, full(depth), shared=True, grad=True, descent=descent, **options)
    placed = place_leaves(tree, ["cpu"] * devices)
    want, want_grads = gradients(pico_host, tree, tree.mixture, batch)
    got, grads = gradients(pico_host, tree, placed, batch)
    torch.testing.assert_close(got, want, **CLOSE)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(grad, want_grad, **CLOSE)
    assert any(grad.abs().max() > 1e-3 for grad in grads)


def grown(pico_host, choices):
    """A tree that split its leaves in this order; the bank's order is no longer that of the paths."""
    tree = make_tree(pico_host.sites, full(0), seed=1)
    for step, choice in enumerate(choices):
        tree = grow(tree, tree.gate.leaves[choice % len(tree.leaves)], seed=step)
    for tensor in tree.leaves.b.values():
        nn.init.normal_(tensor, std=0.2)
    return tree


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_any_tree_on_any_number_of_devices(pico_host, batch, choices, devices):
    tree = grown(pico_host, choices)
    ids_BT, mask_BT = batch
    if devices > len(tree.leaves):
        with pytest.raises(ConfigError, match=f"{devices} leaf devices"):
            place_leaves(tree, ["cpu"] * devices)
        return
    placed = place_leaves(tree, ["cpu"] * devices)
    sizes = [len(term.bank) for term in placed.terms]
    assert sum(sizes) == len(tree.leaves)
    assert max(sizes) - min(sizes) <= 1
    assert tuple(name for term in placed.terms for name in term.bank.names) == tree.leaves.names
    want = pico_host(ids_BT, tree.mixture, mask_BT=mask_BT).logits
    torch.testing.assert_close(pico_host(ids_BT, placed, mask_BT=mask_BT).logits, want, **CLOSE)


@pytest.mark.parametrize("kind", ["rows", "one-row", "tokens", "tokens-short", "dense-row", "dense-token"])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_part_equals_loops(kind, first):
    torch.manual_seed(0)
    host = Host(nn.Sequential(nn.Linear(6, 8, bias=False)))
    [site] = host.sites
    bank = make_bank(host.sites, 2, 3)
    x_BTI = torch.randn(3, 4, 6)
    for seed in range(4):
        assignment = assignment_of(kind, 3, 4, 5, seed=seed)
        with host.running(Mixture((Placed(bank, assignment, first=first),))):
            got = host.module(x_BTI)
        weight_BTK = weights_of(assignment, 3, 4, 5)[..., first : first + 2]
        want = host.module(x_BTI) + loop(x_BTI, bank.a[site], bank.b[site], weight_BTK)
        torch.testing.assert_close(got.double(), want, **CLOSE)


@pytest.mark.parametrize("options", SCOPES)
@torch.no_grad()
def test_only_own_tokens_are_sent(pico_host, batch, sent, options):
    tree = make_tree(pico_host.sites, full(2), **options)
    ids_BT, mask_BT = batch
    placed = place_leaves(tree, ["cpu"] * 3)
    states = pico_host(ids_BT, placed, mask_BT=mask_BT).states
    want = []
    for site in pico_host.sites:
        group = max((n for n, at in enumerate(tree.gate.layers) if at <= site.layer), default=None)
        if group is None:
            continue
        leaf_BT = tree.gate.leaf_of(states[tree.gate][group].logits)
        load_K = counts(leaf_BT, 4).tolist()
        tokens = 7 if options.get("scope") == "sequence" else 1
        for load, count in ((load_K[0], 1), (load_K[1], 1), (sum(load_K[2:]), 2)):
            if load:
                want.append(((load, tokens, site.in_features), count))
    assert sorted(sent) == sorted(want)
    assert len({shape[0] for shape, _ in sent}) > 1


def test_a_part_that_no_token_reaches_does_nothing(pico_host, batch, sent):
    tree = make_tree(pico_host.sites, full(2), grad=True)
    with torch.no_grad():
        tree.gate.bias_LN[:, 0] = -1e4
    placed = place_leaves(tree, ["cpu", "cpu"])
    want, want_grads = gradients(pico_host, tree, tree.mixture, batch)
    del sent[:]
    got, grads = gradients(pico_host, tree, placed, batch)
    assert {shape[:2] for shape, _ in sent} == {(batch[0].numel(), 1)}
    assert len(sent) == len(pico_host.sites)
    torch.testing.assert_close(got, want, **CLOSE)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(grad, want_grad, **CLOSE)


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
@torch.no_grad()
def test_a_decision_is_taken_once(pico_host, batch, monkeypatch, layers):
    tree = make_tree(pico_host.sites, full(3), layers=layers)
    taken = []
    decide = TreeGate._decide

    def watch(gate, x_BTH, group):
        taken.append(group)
        return decide(gate, x_BTH, group)

    monkeypatch.setattr(TreeGate, "_decide", watch)
    pico_host(batch[0], place_leaves(tree, ["cpu"] * 4))
    assert taken == list(range(len(layers)))


@pytest.mark.parametrize("descent", ["hard", "soft"])
@pytest.mark.parametrize("options", SCOPES)
@torch.no_grad()
def test_generation_with_a_cache(pico_host, batch, options, descent):
    tree = make_tree(pico_host.sites, full(2), shared=True, descent=descent, **options)

    def read(mixture):
        steps = list(decode(pico_host, *batch, mixture=mixture, sampling=Sampling(max_new_tokens=6)))
        return [step.tokens for step in steps], torch.stack([step.logits_BV for step in steps])

    want, want_logits = read(tree.mixture)
    got, logits = read(place_leaves(tree, ["cpu"] * 3))
    assert got == want
    torch.testing.assert_close(logits, want_logits, **CLOSE)


@pytest.mark.parametrize("descent", ["hard", "soft"])
@pytest.mark.parametrize("options", [{"layers": (0, 2)}, {"layers": (1,)}, {"scope": "sequence"}])
def test_gradient_checkpointing(options, descent):
    ids_BT = torch.randint(3, 64, (4, 6), generator=torch.Generator().manual_seed(0))
    found = []
    for again in (False, True):
        host = Host(make_llama(num_hidden_layers=4))
        if again:
            host.gradient_checkpointing_enable()
        tree = make_tree(host.sites, full(2), grad=True, descent=descent, **options)
        found.append(
            gradients(host, tree, place_leaves(tree, ["cpu"] * 3), (ids_BT, torch.ones_like(ids_BT)))
        )
    for want, got in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("descent", ["hard", "soft"])
@torch.no_grad()
def test_a_base_in_half_precision_keeps_its_type(batch, descent):
    host = Host(make_llama().bfloat16())
    tree = make_tree(host.sites, full(2), descent=descent)
    want = host(batch[0], tree.mixture).logits
    got = host(batch[0], place_leaves(tree, ["cpu"] * 2)).logits
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, atol=0.1, rtol=0.05)


@torch.no_grad()
def test_leaves_of_zeros_change_nothing(pico_host, batch):
    for descent in ("hard", "soft"):
        tree = make_tree(pico_host.sites, full(2), descent=descent)
        for tensor in tree.leaves.b.values():
            tensor.zero_()
        got = pico_host(batch[0], place_leaves(tree, ["cpu"] * 2)).logits
        assert torch.equal(got, pico_host(batch[0]).logits)


def test_a_tree_beside_other_terms(pico_host, batch):
    tree = make_tree(pico_host.sites, full(1), shared=True)
    other = make_bank(pico_host.sites, 2, 2, seed=7)
    rows = Mixture.rows(other, [0, None, 1, 1, None])
    want = pico_host(batch[0], rows + tree.mixture).logits
    got = pico_host(batch[0], place_leaves(tree, ["cpu", "cpu"]) + rows).logits
    torch.testing.assert_close(got, want, **CLOSE)


def test_what_is_refused(pico_host, batch):
    tree = make_tree(pico_host.sites, full(1))
    for devices, message in (
        ([], "0 leaf devices for a tree with 2 leaves; give 1 to 2"),
        (["cpu"] * 3, "3 leaf devices for a tree with 2 leaves; give 1 to 2"),
        (["cpu", "gpu7"], "leaf device gpu7 cannot be used: .*gpu7"),
        (["cuda:99"], "leaf device cuda:99 cannot be used: "),
        (["meta"], "leaf device meta cannot be used: "),
    ):
        with pytest.raises(ConfigError, match=message) as told:
            place_leaves(tree, devices)
        assert "\n" not in str(told.value)
    bank = make_bank(pico_host.sites, 2, 2)
    with pytest.raises(ConfigError, match="cannot average"):
        Placed(bank, tree.gate, "average")
    topk = Placed(bank, assignment_of("topk", 5, 7, 2))
    with pytest.raises(ConfigError, match="one adapter per token"):
        pico_host(batch[0], Mixture((topk,)))
    for kind in ("rows", "tokens", "dense-token"):
        assignment = assignment_of(kind, 3, 7, 2)
        with pytest.raises(ShapeError, match="3 rows, this batch has 5"):
            pico_host(batch[0], Mixture((Placed(bank, assignment),)))
    foreign = Tree(Bank(tree.leaves.names, tree.leaves.a, tree.leaves.b, base="weft1-other"), tree.gate)
    with pytest.raises(BaseMismatchError, match="weft1-other"):
        pico_host(batch[0], place_leaves(foreign, ["cpu", "cpu"]))


def test_terms_that_share_a_gate_keep_their_banks(pico_host, batch):
    """The gate is asked once at a site; each bank answers for itself."""
    banks = [make_bank(pico_host.sites, 2, 2, seed=seed) for seed in (1, 2)]
    gate = Rows(torch.tensor([0, 1, -1, 1, 0]))
    got = pico_host(batch[0], Mixture(tuple(Term(bank, gate) for bank in banks))).logits
    want = pico_host(
        batch[0],
        Mixture.rows(banks[0], gate.index_B) + Mixture.rows(banks[1], gate.index_B),
    )
    torch.testing.assert_close(got, want.logits)


@pytest.mark.parametrize(
    "options", [{}, {"layers": (0, 1)}, {"descent": "soft"}, {"scope": "sequence", "descent": "soft"}]
)
@torch.no_grad()
def test_what_is_sent_meets_the_adapters_where_they_lie(pico_host, batch, monkeypatch, options):
    """On "meta", which refuses to compute with a tensor from elsewhere; only the way back is left out."""
    back = []
    monkeypatch.setattr(span, "_compute_dtype", lambda a_KRI, x: a_KRI.dtype)  # "meta" knows no autocast
    monkeypatch.setattr(span, "add_back", lambda output, y, trip: back.append((y, trip)) or output)
    tree = make_tree(pico_host.sites, full(2), **options)
    placed = place_leaves(tree, ["cpu", "cpu"])
    away = Mixture(tuple(replace(term, bank=term.bank.to("meta")) for term in placed.terms))
    pico_host(batch[0], away)
    assert len(back) == 2 * len(pico_host.sites)
    assert {y.device.type for y, _ in back} == {"meta"}
    assert {trip.index_N.device.type for _, trip in back if trip.index_N is not None} <= {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="leaves on two devices need a CUDA device beside the CPU"
)
@pytest.mark.parametrize("descent", ["hard", "soft"])
@pytest.mark.parametrize("options", SCOPES)
@pytest.mark.parametrize("base", ["cpu", "cuda:0"])
def test_over_a_wire(batch, base, options, descent):
    host = Host(make_llama().to(base))
    tree = make_tree(host.sites, full(2), shared=True, grad=True, descent=descent, **options)
    home = Tree(tree.leaves.to(base), tree.gate.to(base), tree.shared.to(base))
    devices = ["cpu", "cuda:0", f"cuda:{torch.cuda.device_count() - 1}"]
    placed = place_leaves(tree, devices)
    assert [str(next(iter(term.bank.a.values())).device) for term in placed.terms] == [*devices, base]
    there = tuple(tensor.to(base) for tensor in batch)
    want, want_grads = gradients(host, tree, home.mixture, there)
    got, grads = gradients(host, tree, placed, there)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(grad, want_grad, atol=1e-3, rtol=1e-2)
