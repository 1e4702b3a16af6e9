"""Every gate against plain loops, and laws 3, 4 and 5 for each."""

import copy

import pytest
import torch
from every_kind import weights_of
from peft import ArrowConfig, create_arrow_model
from route_reference import SEQUENCE, TOKEN, descend, directions, dot, make_gate, per_token, rms, softmax, top
from torch import nn
from transformers import DynamicCache

from decoding import decode
from tiny_models import make_bank, make_llama
from weft import adapters
from weft.engine import Sampling
from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.host import Host
from weft.route import Arrow, Phatgoose, PhatgooseTraining, Smear, Spectr, TreeGate, XLora, full
from weft.types import AbstractGate, Bank, Dense, Mixture, Rows, Term

K, H = 4, 32
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


class Watched(AbstractGate):
    """Passes everything on and keeps what was seen; optionally as plain weights, the slow form."""

    def __init__(self, gate, dense=False):
        super().__init__()
        self.gate, self.dense, self.seen = gate, dense, []

    def prepare(self, embeddings_BTH, mask_BT):
        return self.gate.prepare(embeddings_BTH, mask_BT)

    def assign(self, x_BTI, site, state):
        given, state = self.gate.assign(x_BTI, site, state)
        self.seen.append((site, x_BTI.detach(), given))
        rows, columns = x_BTI.shape[:2]
        if not self.dense:
            return given, state
        if isinstance(given, Rows) and len(given.index_B) == 1:
            given = Rows(given.index_B.expand(rows))
        return Dense(weights_of(given, rows, columns, K)), state


@pytest.fixture(scope="module")
def ids_BT():
    return torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(4))


def score(name, gate, bank, site, x, v=None):
    """Scores of all adapters for one vector at one site."""
    if name == "phatgoose":
        norm = nn.functional.layer_norm
        n = site.in_features
        return [dot(norm(x.double(), (n,)), norm(g.double(), (n,))) / n**0.5 for g in v[site]]
    scores = []
    for k in range(K):
        _, _, vh = directions(bank, site, k)
        # SpectR's |S V^T x|, and Arrow's one direction of it.
        scores.append(
            float((bank.b[site][k].double() @ (bank.a[site][k].double() @ x.double())).norm())
            if name == "spectr"
            else abs(dot(vh[0], x))
        )
    return scores


@pytest.mark.parametrize("name", ["arrow", "spectr", "phatgoose"])
@torch.no_grad()
def test_library_gates_equal_loops(pico_host, pico_bank, ids_BT, name):
    bank = pico_bank(K, 2)
    gate = make_gate(name, bank, H)
    vectors = None
    if name == "phatgoose":
        rng = torch.Generator().manual_seed(0)
        vectors = {s: torch.randn(K, s.in_features, generator=rng) for s in bank.sites}
    watched = Watched(gate)
    pico_host(ids_BT, Mixture((Term(bank, watched),)))
    assert len(watched.seen) == len(pico_host.sites)
    for site, x_BTI, given in watched.seen[::4]:
        want = per_token(lambda x, s=site: top(score(name, gate, bank, s, x, vectors), 2), x_BTI)
        got = weights_of(given, *x_BTI.shape[:2], K).double()
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tree-hard", "tree-soft", "tree-layers", "tree-late", "xlora"])
@torch.no_grad()
def test_gates_that_decide_in_a_layer_equal_loops(pico_host, pico_bank, ids_BT, name):
    bank = pico_bank(K, 2)
    gate = make_gate(name, bank, H)
    watched = Watched(gate)
    pico_host(ids_BT, Mixture((Term(bank, watched),)))
    last = {}
    for site, x_BTI, given in watched.seen:
        if site.layer in gate.layers and site.layer not in last:
            group = gate.layers.index(site.layer)

            def weigh(x, group=group):
                if name != "xlora":
                    return descend(gate, x, group)
                x, rows = rms(x), zip(gate.weight_LKH[group], gate.bias_LK[group], strict=True)
                return top([(dot(v, x) + c.item()) / gate.temperature for v, c in rows], 2)

            last[site.layer] = per_token(weigh, x_BTI)
        got = weights_of(given, *x_BTI.shape[:2], K).double()
        want = last[max(last)] if last else torch.zeros_like(got)
        if isinstance(given, Rows):  # the base, before any decision
            assert given.index_B.tolist() == [-1]
            assert not last
        else:
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert last


@pytest.mark.parametrize("name", SEQUENCE)
@torch.no_grad()
def test_gates_that_decide_on_the_prompt_equal_loops(pico_host, ids_BT, name):
    gate = make_gate(name, None, H)
    embedded = pico_host.module.get_input_embeddings()(ids_BT)
    mask_BT = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7, [0, 0, 1, 0, 0, 0, 0]]).bool()
    state = gate.prepare(embedded, mask_BT)
    given, _ = gate.assign(embedded, pico_host.sites[-1], state)
    for row in range(3):
        tokens = [embedded[row, t] for t in range(7) if mask_BT[row, t]]
        mean = sum(x.double() for x in tokens) / len(tokens)
        if name == "smear":
            x = rms(mean)
            want = softmax([dot(v, x) + c.item() for v, c in zip(gate.weight_KH, gate.bias_K, strict=True)])
        else:
            want = descend(gate, mean)
        got = given.weight[row] if isinstance(given, Dense) else torch.eye(K)[given.index_B[row]]
        torch.testing.assert_close(got.double(), torch.tensor(want).double(), atol=1e-5, rtol=1e-5)


def bank_of(sites, rank):
    bank = make_bank(sites, K, rank, scale=0.3 * rank**-0.5)
    return Bank(bank.names, bank.a, {s: b.requires_grad_() for s, b in bank.b.items()})


@pytest.mark.parametrize("rank", [2, 40])
@pytest.mark.parametrize("name", TOKEN + SEQUENCE)
def test_paths_agree(pico_host, ids_BT, name, rank):
    """Law 3: what a gate assigns, in the kernel chosen for it and as plain weights: logits and gradients."""
    found = []
    for dense in (False, True):
        bank = bank_of(pico_host.sites, rank)
        gate = make_gate(name, bank, H)
        term = Term(bank, Watched(gate, dense), "average" if name == "smear" else "sum")
        logits = pico_host(ids_BT, Mixture((term,))).logits
        parameters = [*bank.b.values(), *gate.parameters()]
        grads = torch.autograd.grad(logits.square().mean(), parameters, allow_unused=True)
        zeros = [torch.zeros_like(p) for p in parameters]
        found.append((logits, [z if g is None else g for z, g in zip(zeros, grads, strict=True)]))
    torch.testing.assert_close(found[0][0], found[1][0], **CLOSE)
    torch.testing.assert_close(found[0][1], found[1][1], **CLOSE)
    base = pico_host(ids_BT).logits
    assert (found[0][0] - base).abs().max() > 0.05


LENGTHS, WIDTH = (7, 3, 5, 1), 9


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TOKEN + SEQUENCE)
@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(pico_host, pico_bank, name, side):
    """Law 4."""
    bank = pico_bank(K, 3)
    term = Term(bank, make_gate(name, bank, H), "average" if name == "smear" else "sum")
    rng = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, 64, (1, length), generator=rng) for length in LENGTHS]

    def shifted(row):
        pad = row.new_zeros(1, WIDTH - row.shape[1])
        return torch.cat([pad, row] if side == "left" else [row, pad], 1)

    ids = torch.cat([shifted(row) for row in rows])
    mask = torch.cat([shifted(torch.ones_like(row)) for row in rows])
    batch = pico_host(ids, Mixture((term,)), mask_BT=mask).logits
    for i, row in enumerate(rows):
        alone = pico_host(row, Mixture((term,))).logits[0]
        torch.testing.assert_close(batch[i][mask[i].bool()], alone, **CLOSE)


@pytest.mark.parametrize("name", TOKEN + SEQUENCE)
@torch.no_grad()
def test_cached_decode_equals_an_uncached_forward(pico_host, pico_bank, name):
    """Law 5: token by token, and what was decided on the prompt stays."""
    bank = pico_bank(K, 2)
    mixture = Mixture((Term(bank, make_gate(name, bank, H), "average" if name == "smear" else "sum"),))
    mask = torch.tensor([[0] * 3 + [1] * 6, [0] * 6 + [1] * 3, [1] * 9])
    ids = torch.randint(3, 64, mask.shape, generator=torch.Generator().manual_seed(5)) * mask
    steps = list(decode(pico_host, ids, mask, mixture=mixture, sampling=Sampling(max_new_tokens=6)))
    whole = torch.cat([ids, torch.tensor([step.tokens for step in steps]).mT], 1)
    seen = torch.cat([mask, torch.ones(3, 6, dtype=torch.long)], 1)
    # A gate per token starts afresh; one per sequence keeps to the prompt.
    states = pico_host.prepare(ids, mixture, mask_BT=mask) if name in SEQUENCE else None
    want = pico_host(whole, mixture, mask_BT=seen, states=states).logits
    got = torch.stack([step.logits_BV for step in steps], 1)
    torch.testing.assert_close(got, want[:, 8:-1], **CLOSE)
    if name in ("tree-sequence-soft", "smear"):
        # Had the new tokens a say, the answer would be another one.
        assert (pico_host(whole, mixture, mask_BT=seen).logits - want).abs().max() > 1e-3


@torch.no_grad()
def test_one_gate_serves_two_caches_at_once(pico_host, pico_bank):
    """What one generation decided never reaches another that runs in between."""
    bank = pico_bank(K, 2)
    mixture = Mixture((Term(bank, make_gate("tree-late", bank, H)),))
    ids = torch.randint(3, 64, (2, 8), generator=torch.Generator().manual_seed(6))
    caches = [DynamicCache(config=pico_host.module.config) for _ in range(2)]
    got = [[], []]
    for t in range(8):
        for row in (0, 1):
            out = pico_host(ids[row : row + 1, t : t + 1], mixture, cache=caches[row])
            got[row].append(out.logits[0, 0])
    want = pico_host(ids, mixture).logits
    torch.testing.assert_close(torch.stack([torch.stack(row) for row in got]), want, **CLOSE)


@pytest.mark.parametrize("name", ["tree-soft", "tree-layers", "xlora", "smear"])
def test_gradients_with_and_without_checkpointing(ids_BT, name):
    """Law 11: a decision made in one layer and used in others, recomputed layer by layer."""
    found = []
    for checkpointing in (False, True):
        host = Host(copy.deepcopy(make_llama()))
        if checkpointing:
            host.gradient_checkpointing_enable()
        bank = bank_of(host.sites, 2)
        gate = make_gate(name, bank, H)
        host(ids_BT, Mixture((Term(bank, gate),))).logits.square().mean().backward()
        found.append([p.grad for p in [*bank.b.values(), *gate.parameters()]])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    assert all(grad.abs().max() > 0 for grad in found[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@torch.no_grad()
def test_arrow_equals_pefts(tmp_path, ids_BT):
    """PEFT finds the direction by 15 power iterations: exact enough where the spectrum falls off."""
    host = Host(make_llama(), target_modules=["q_proj", "v_proj"])
    bank = make_bank(host.sites, 5, 2)
    fall = torch.tensor([1.0, 0.2])
    bank = Bank(bank.names, {s: a * fall[:, None] for s, a in bank.a.items()}, bank.b)
    paths = []
    for k in range(5):
        adapters.save(bank[k], tmp_path / f"expert{k}")
        paths.append(str(tmp_path / f"expert{k}"))
    config = ArrowConfig(top_k=3, router_temperature=0.7, rng_seed=0)
    theirs = create_arrow_model(make_llama(), paths, config).eval()
    want = theirs(input_ids=ids_BT).logits
    gate = Arrow(bank, top_k=3, temperature=0.7)
    got = host(ids_BT, Mixture((Term(bank, gate),))).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert (host(ids_BT, Mixture((Term(bank, Arrow(bank, top_k=1)),))).logits - want).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [Arrow, Spectr])
@torch.no_grad()
def test_the_choice_is_the_same_in_every_gauge(pico_host, pico_bank, ids_BT, kind):
    """(B M, M^-1 A) is the same delta, so the same adapters are chosen."""
    bank = pico_bank(K, 3)
    turn = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3)
    other = Bank(
        bank.names,
        {s: turn.inverse() @ a for s, a in bank.a.items()},
        {s: b @ turn for s, b in bank.b.items()},
    )
    one = pico_host(ids_BT, Mixture((Term(bank, kind(bank, top_k=2)),))).logits
    two = pico_host(ids_BT, Mixture((Term(other, kind(other, top_k=2)),))).logits
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [Arrow, Spectr])
@torch.no_grad()
def test_an_adapter_that_lacks_a_site_is_not_chosen_there(pico_host, pico_bank, ids_BT, kind):
    bank = pico_bank(K, 2)
    for b_KOR in bank.b.values():
        b_KOR[1:] = 0
    first, rest = pico_host.sites[0], pico_host.sites[1:]
    bank.b[first][:] = 0
    watched = Watched(kind(bank, top_k=3))
    logits = pico_host(ids_BT, Mixture((Term(bank, watched),))).logits
    assert torch.isfinite(logits).all()
    for site, x_BTI, given in watched.seen:
        if site == first:
            assert given.index_B.tolist() == [-1]
        else:
            assert site in rest
            weights = weights_of(given, *x_BTI.shape[:2], K)
            assert torch.equal(weights, torch.eye(K)[0].expand_as(weights))


@pytest.mark.parametrize("make", [Arrow, Spectr, lambda bank, **o: Phatgoose(bank, _gates(bank), **o)])
def test_libraries_that_cannot_be_routed(pico_bank, make):
    with pytest.raises(ConfigError, match="top_k is 5, a bank of 4"):
        make(pico_bank(4, 2), top_k=5)
    with pytest.raises(ConfigError, match="top_k is 0"):
        make(pico_bank(4, 2), top_k=0)
    with pytest.raises(ConfigError, match="temperature"):
        make(pico_bank(4, 2), top_k=1, temperature=0.0)
    with pytest.raises(ShapeError, match="empty"):
        make(Bank((), {}, {}), top_k=1)
    broken = pico_bank(4, 2)
    next(iter(broken.a.values()))[0, 0, 0] = float("nan")
    with pytest.raises(ShapeError, match="NaN"):
        make(broken, top_k=1)


def _gates(bank):
    return {site: torch.ones(len(bank), site.in_features) for site in bank.sites}


def test_gates_that_do_not_fit_their_bank(pico_host, pico_bank):
    bank = pico_bank(3, 2)
    gates = _gates(bank)
    missing = dict(list(gates.items())[1:])
    with pytest.raises(ShapeError, match="missing"):
        Phatgoose(bank, missing)
    with pytest.raises(ShapeError, match=r"needs \(3, "):
        Phatgoose(bank, {s: v[:2] for s, v in gates.items()})
    gates[pico_host.sites[0]] = gates[pico_host.sites[0]] * float("nan")
    with pytest.raises(ShapeError, match="NaN"):
        Phatgoose(bank, gates)
    few = make_bank(pico_host.sites[:2], 3, 2)
    for gate in (Arrow(few), Spectr(few), Phatgoose(few, _gates(few))):
        with pytest.raises(UnknownNameError, match="bank without"):
            pico_host(torch.ones(1, 2, dtype=torch.long), Mixture((Term(bank, gate),)))
    with pytest.raises(ConfigError):
        Smear(4, H, expert_dropout=1.0)
    with pytest.raises(ConfigError):
        Smear(0, H)
    for options in ({"top_k": 5}, {"temperature": -1.0}, {"layers": (1, 1)}):
        with pytest.raises(ConfigError):
            XLora(4, H, **options)


def test_one_adapter_and_equal_adapters(pico_host, pico_bank, ids_BT):
    """A library of one is that adapter; equal adapters are that adapter whatever the weights."""
    one = pico_bank(1, 2)
    same = one.select(torch.zeros(3, dtype=torch.long))
    want = pico_host(ids_BT, Mixture.of(one)).logits
    for bank, k in ((one, 1), (same, 2)):
        for gate in (Arrow(bank, top_k=k), Spectr(bank, top_k=k), Phatgoose(bank, _gates(bank), top_k=k)):
            torch.testing.assert_close(pico_host(ids_BT, Mixture((Term(bank, gate),))).logits, want, **CLOSE)


def test_phatgoose_gates_learn_each_on_their_own(pico_host, pico_bank, ids_BT):
    bank = pico_bank(3, 2)
    training = PhatgooseTraining(pico_host.sites, 3)
    training.index_B = torch.tensor([2, 0, 2])
    mixture = Mixture((Term(bank, training),))
    # All gates at 0: half of the adapter, by the sigmoid.
    half = Bank(bank.names, bank.a, {s: b / 2 for s, b in bank.b.items()})
    want = pico_host(ids_BT, Mixture.rows(half, [2, 0, 2])).logits
    logits = pico_host(ids_BT, mixture).logits
    torch.testing.assert_close(logits, want, **CLOSE)
    logits.square().mean().backward()
    for v_KI in training.vectors:
        assert v_KI.grad[[0, 2]].abs().sum(1).min() > 0
        assert v_KI.grad[1].abs().sum() == 0
    rng = torch.Generator().manual_seed(0)
    for v_KI in training.vectors:
        nn.init.normal_(v_KI, generator=rng)
    site = pico_host.sites[3]
    x_BTI = torch.randn(3, 5, site.in_features, generator=rng)
    got = weights_of(training.assign(x_BTI, site, {})[0], 3, 5, 3)
    for b, k in enumerate((2, 0, 2)):
        for t in range(5):
            want = 1 / (1 + torch.exp(-torch.tensor(dot(training.vectors[3][k], x_BTI[b, t]))))
            assert got[b, t, k].item() == pytest.approx(want.item(), abs=1e-5)
    assert Phatgoose(bank, training.gates).top_k == 2


def test_smear_averages_factors_and_drops_experts(pico_host, pico_bank, ids_BT):
    bank, gate = pico_bank(K, 2), make_gate("smear", None, H)
    embedded = pico_host.module.get_input_embeddings()(ids_BT)
    weight_BK = gate.prepare(embedded, torch.ones_like(ids_BT).bool())[0].assignment.weight
    want = []
    for row in range(3):
        a = {s: torch.einsum("k,kri->ri", weight_BK[row], bank.a[s])[None] for s in bank.sites}
        b = {s: torch.einsum("k,kor->or", weight_BK[row], bank.b[s])[None] for s in bank.sites}
        want.append(pico_host(ids_BT[row : row + 1], Mixture.of(Bank(("one",), a, b))).logits)
    got = pico_host(ids_BT, Mixture((Term(bank, gate, "average"),))).logits
    torch.testing.assert_close(got, torch.cat(want), **CLOSE)

    dropping = Smear(K, H, expert_dropout=0.3).train()
    torch.manual_seed(0)
    many = embedded[:1].expand(4000, -1, -1)
    weights = dropping.prepare(many, torch.ones(4000, 7, dtype=torch.bool))[0].assignment.weight.detach()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4000))
    gone = (weights == 0).float().mean()
    assert gone == pytest.approx(0.3 - 0.3**4, abs=0.02)  # where all four would go, none does
    kept = dropping.eval().prepare(embedded, torch.ones_like(ids_BT).bool())[0].assignment.weight
    assert (kept > 0).all()
    assert kept.max() < 0.6  # all begin with about the same weight


def test_a_tree_gate_is_small():
    gate = TreeGate(full(6), H)
    assert sum(p.numel() for p in gate.parameters()) == 63 * (H + 1)
    assert set(gate.state_dict()) == {"weight_LNH", "bias_LN"}
