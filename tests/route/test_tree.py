"""The tree: descents, losses, growing, pruning, folders."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from route_reference import descend, per_token
from safetensors.torch import load_file, save_file

from tiny_models import make_bank, make_llama
from weft import adapters
from weft.errors import BaseMismatchError, ConfigError, SaveError, ShapeError, UnknownNameError, WeightsError
from weft.route import Tree, TreeGate, export_leaves, full, grow, load_tree, prune, save_tree
from weft.route.paths import check_leaves, nodes_of, turns
from weft.route.tree_losses import annealed, balance, counts, even_start, hardening, uneven_turns
from weft.types import Bank, Dense, Mixture, Rows, Site, Tokens

H = 32


def make_tree(sites, leaves, *, shared=False, seed=0, **options):
    bank = make_bank(sites, len(leaves), 2, seed=seed)
    bank = Bank(tuple(f"leaf-{p}" if p else "leaf" for p in leaves), bank.a, bank.b)
    one = make_bank(sites, 1, 3, seed=seed + 100) if shared else None
    return Tree(bank, TreeGate(leaves, H, seed=seed, **options).eval(), one)


def assigned(gate, x_BTH, layer=0, path="model.layers.0.self_attn.q_proj"):
    site = Site(path, layer, "q_proj", H, H)
    state = gate.prepare(x_BTH, torch.ones(x_BTH.shape[:2], dtype=torch.bool))
    return gate.assign(x_BTH, site, state)[0]


def grown_paths(choices):
    """A tree that split its leaves in this order."""
    leaves = ["" if not choices else "0", "1"] if choices else [""]
    for choice in choices[1:]:
        leaf = leaves.pop(choice % len(leaves))
        leaves += [leaf + "0", leaf + "1"]
    return tuple(leaves)


@given(st.lists(st.integers(0, 7), max_size=6), st.floats(0.05, 3), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_both_descents_equal_a_walk_to_every_leaf(choices, temperature, seed):
    leaves = grown_paths(choices)
    gate = TreeGate(leaves, 8, descent="soft", temperature=temperature, seed=seed)
    torch.nn.init.normal_(gate.bias_LN, generator=torch.Generator().manual_seed(seed))
    x_BTH = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed)) * 5
    with torch.no_grad():
        soft = gate._decide(x_BTH, 0)[1].weight
        torch.testing.assert_close(
            soft.double(), per_token(lambda x: descend(gate, x), x_BTH), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(soft.sum(-1), torch.ones(2, 3))
        gate.descent = "hard"
        index = gate._decide(x_BTH, 0)[1].index_BT
    want = per_token(lambda x: descend(gate, x), x_BTH)
    torch.testing.assert_close(torch.nn.functional.one_hot(index, len(leaves)).double(), want)


def test_paths():
    assert full(0) == ("",)
    assert full(2) == ("00", "01", "10", "11")
    assert nodes_of(full(2)) == ("", "0", "1")
    assert len(full(6)) == 64
    for leaves, message in (
        ([], "at least one leaf"),
        (["0"], "leads to no leaf"),
        (["0", "1", "1"], "same path"),
        (["0", "1", "10", "11"], "also leads on"),
        (["00", "1"], "'01' leads to no leaf"),
        (["0", "x"], "no leaf"),
        (["0" * 13, "1"], "at most 12 turns"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_leaves(leaves)
    with pytest.raises(ConfigError, match="got 13"):
        full(13)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"layers": ()},
        {"layers": (2, 1)},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigError):
        TreeGate(full(1), H, **options)


def test_what_each_scope_decides(pico_host):
    x_BTH = torch.randn(3, 5, H, generator=torch.Generator().manual_seed(0))
    assert isinstance(assigned(TreeGate(full(2), H), x_BTH), Tokens)
    assert isinstance(assigned(TreeGate(full(2), H, scope="sequence"), x_BTH), Rows)
    soft = assigned(TreeGate(full(2), H, scope="sequence", descent="soft"), x_BTH)
    assert isinstance(soft, Dense)
    assert soft.weight.shape == (3, 4)
    early = assigned(TreeGate(full(2), H, layers=(1,)), x_BTH)
    assert early.index_B.tolist() == [-1]


def test_one_decision_serves_the_sites_that_follow(pico_host):
    """Every leaf adds its own constant direction, so the leaf that acted is read off the output."""
    rng = torch.Generator().manual_seed(0)
    tree = make_tree(pico_host.sites, full(2), layers=(0,))
    ids_BT = torch.randint(3, 64, (3, 6), generator=rng)
    decided = pico_host(ids_BT, tree.mixture).states[tree.gate]
    assert list(decided) == [0]
    assert decided[0].place.startswith("model.layers.0.")
    layers = make_tree(pico_host.sites, full(2), layers=(0, 1))
    states = pico_host(ids_BT, layers.mixture).states
    assert [states[layers.gate][n].place.split(".")[2] for n in (0, 1)] == ["0", "1"]
    # In a Llama the first site of a layer reads the normalised input, here that of the embeddings.
    embedded = pico_host.module.get_input_embeddings()(ids_BT)
    x_BTH = pico_host.module.model.layers[0].input_layernorm(embedded)
    want = per_token(lambda x: descend(tree.gate, x), x_BTH).argmax(-1)
    assert torch.equal(decided[0].assignment.index_BT, want)
    assert len(want.unique()) > 1


@torch.no_grad()
def test_sites_before_the_deciding_layer_keep_the_base(pico_host):
    late = make_tree(pico_host.sites, full(2), layers=(1,))
    ids_BT = torch.randint(3, 64, (2, 6), generator=torch.Generator().manual_seed(0))
    got = pico_host(ids_BT, late.mixture, output_hidden_states=True).hidden_states
    base = pico_host(ids_BT, output_hidden_states=True).hidden_states
    assert torch.equal(got[1], base[1])
    assert (got[2] - base[2]).abs().max() > 0.01


def test_what_cannot_decide_says_so(pico_host):
    ids_BT = torch.randint(3, 64, (2, 4))
    few = tuple(s for s in pico_host.sites if s.layer == 1)
    with pytest.raises(ShapeError, match="has no site"):
        pico_host(ids_BT, make_tree(few, full(1)).mixture)
    wide = tuple(s for s in pico_host.sites if s.module == "down_proj")
    with pytest.raises(ShapeError, match="reads 32 features"):
        pico_host(ids_BT, make_tree(wide, full(1)).mixture)
    tree = make_tree(pico_host.sites, full(1), scope="sequence")
    with pico_host.running(tree.mixture), pytest.raises(ConfigError, match="embeddings_BTH"):
        pico_host.module(ids_BT)
    with pytest.raises(ShapeError, match="3 adapters for the 4 leaves"):
        Tree(make_bank(pico_host.sites, 3, 2), TreeGate(full(2), H))
    with pytest.raises(ShapeError, match="different sites"):
        Tree(make_bank(pico_host.sites, 2, 2), TreeGate(full(1), H), make_bank(few, 1, 2))
    with pytest.raises(ShapeError, match="one adapter"):
        Tree(make_bank(pico_host.sites, 2, 2), TreeGate(full(1), H), make_bank(pico_host.sites, 2, 2))


def test_losses_equal_loops():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=rng, dtype=torch.float64) * 3
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    seen = [logits[b, t, n] for b in range(2) for t in range(5) if mask[b, t] for n in range(3)]
    p = [1 / (1 + torch.exp(-z)) for z in seen]
    want = sum(-(q * q.log() + (1 - q) * (1 - q).log()) for q in p) / len(p)
    torch.testing.assert_close(hardening(logits, mask), want)
    assert float(hardening(torch.zeros(1, 4, 2))) == pytest.approx(torch.tensor(2.0).log())
    assert float(hardening(torch.full((1, 4, 2), 80.0))) == pytest.approx(0, abs=1e-6)
    assert float(hardening(torch.zeros(2, 3, 0))) == 0

    weight = torch.rand(2, 5, 4, generator=rng, dtype=torch.float64)
    weight /= weight.sum(-1, keepdim=True)
    index = torch.tensor([[0, 3, 3, 1, 0], [2, 3, 0, 0, 0]])
    places = [(b, t) for b in range(2) for t in range(5) if mask[b, t]]
    soft = [sum(weight[b, t, k] for b, t in places) / 7 for k in range(4)]
    hard = [sum(int(index[b, t]) == k for b, t in places) / 7 for k in range(4)]
    want = 4 * sum(s * h for s, h in zip(soft, hard, strict=True)) - 1
    torch.testing.assert_close(balance(weight, index, mask), want)
    assert float(balance(torch.eye(4)[None], torch.arange(4)[None])) == pytest.approx(0, abs=1e-6)
    assert float(balance(torch.eye(4)[:1].expand(3, 4)[None], torch.zeros(1, 3).long())) == pytest.approx(3)

    assert counts(index, 4).tolist() == [5, 1, 1, 3]
    assert counts(index, 4, mask).tolist() == [4, 1, 0, 2]
    assert [annealed(2.0, step, 10) for step in (0, 5, 10)] == [0, 1, 2]


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_an_even_start_halves_what_arrives_at_every_node(choices, tokens, seed):
    leaves = grown_paths(choices)
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, len(nodes_of(leaves)), generator=rng) + 1
    logits = logits + even_start(logits, leaves)
    for n, node in enumerate(nodes_of(leaves)):
        turned = [0, 0]
        for token in range(tokens):
            path = ""
            while path in nodes_of(leaves) and path != node:
                path += "1" if logits[token, nodes_of(leaves).index(path)] >= 0 else "0"
            if path == node:
                turned[int(logits[token, n] >= 0)] += 1
        assert abs(turned[0] - turned[1]) <= 1
    assert even_start(torch.zeros(0, 3), full(2)).tolist() == [0, 0, 0]


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_uneven_turns_are_counted_from_the_loads(choices, seed):
    leaves = grown_paths(choices)
    load = torch.randint(0, 5, (2, len(leaves)), generator=torch.Generator().manual_seed(seed))
    got = uneven_turns(load, *turns(leaves))
    for layer, row in enumerate(load.tolist()):
        for n, node in enumerate(nodes_of(leaves)):
            right = sum(count for count, leaf in zip(row, leaves, strict=True) if leaf.startswith(node + "1"))
            left = sum(count for count, leaf in zip(row, leaves, strict=True) if leaf.startswith(node + "0"))
            want = right / (right + left) - 0.5 if right + left else 0.0
            assert float(got[layer, n]) == pytest.approx(want)


def logits_of(host, tree, ids_BT):
    with torch.no_grad():
        return host(ids_BT, tree.mixture).logits


@pytest.mark.parametrize("scope", ["token", "sequence"])
@pytest.mark.parametrize("descent", ["soft", "hard"])
def test_growing_changes_nothing_at_that_moment(pico_host, scope, descent):
    ids_BT = torch.randint(3, 64, (4, 7), generator=torch.Generator().manual_seed(1))
    tree = make_tree(pico_host.sites, full(1), shared=True, scope=scope, descent=descent)
    want = logits_of(pico_host, tree, ids_BT)
    for leaf in ("1", "10", "0"):
        tree = grow(tree, leaf, seed=len(leaf))
        torch.testing.assert_close(logits_of(pico_host, tree, ids_BT), want, atol=2e-5, rtol=1e-4)
    assert tree.gate.leaves == ("00", "100", "11", "101", "01")
    assert tree.leaves.names[1] == "leaf-100"
    assert tree.leaves.names[-1] == "leaf-01"


def test_two_leaves_that_were_one_part_again(pico_host):
    ids_BT = torch.randint(3, 64, (4, 7), generator=torch.Generator().manual_seed(1))
    tree = grow(make_tree(pico_host.sites, full(0), descent="soft"), "")
    for b_KOR in tree.leaves.b.values():
        b_KOR.requires_grad_()
    pico_host(ids_BT, tree.mixture).logits.square().mean().backward()
    b_KOR = next(iter(tree.leaves.b.values()))
    assert (b_KOR.grad[0] - b_KOR.grad[1]).abs().max() > 0.01 * b_KOR.grad.abs().max()


@torch.no_grad()
def test_pruning_sends_a_leafs_tokens_to_its_sibling(pico_host):
    x_BTH = torch.randn(2, 40, H, generator=torch.Generator().manual_seed(0))
    tree = make_tree(pico_host.sites, ("00", "010", "011", "1"))
    before = [tree.gate.leaves[i] for i in assigned(tree.gate, x_BTH).index_BT.flatten()]
    assert set(before) == set(tree.gate.leaves)
    smaller = prune(tree, "00")
    assert smaller.gate.leaves == ("00", "01", "1")
    assert smaller.leaves.names == ("leaf-00", "leaf-01", "leaf-1")
    site = pico_host.sites[0]
    assert torch.equal(smaller.leaves.a[site], tree.leaves.a[site][1:])
    after = [smaller.gate.leaves[i] for i in assigned(smaller.gate, x_BTH).index_BT.flatten()]
    for old, new in zip(before, after, strict=True):
        # 010 and 011 moved up to 00 and 01; a token of the pruned leaf now takes the turn that parts those.
        assert new in {"00": ("00", "01"), "010": ("00",), "011": ("01",), "1": ("1",)}[old]
    assert prune(prune(smaller, "1"), "0").gate.leaves == ("",)
    root = prune(tree, "1")
    assert root.gate.leaves == ("0", "10", "11")


def test_prune_undoes_grow(pico_host):
    tree = make_tree(pico_host.sites, full(2), layers=(0, 1))
    again = prune(grow(tree, "10"), "101")
    assert again.gate.leaves == full(2)
    assert torch.equal(again.gate.weight_LNH, tree.gate.weight_LNH)
    for site in pico_host.sites:
        assert torch.equal(again.leaves.b[site], tree.leaves.b[site])
    with pytest.raises(UnknownNameError, match="no leaf '101'"):
        prune(tree, "101")
    with pytest.raises(UnknownNameError, match="no leaf '2'"):
        grow(tree, "2")
    with pytest.raises(ConfigError, match="at least one leaf"):
        prune(make_tree(pico_host.sites, full(0)), "")


def test_a_tree_on_disk_is_the_same_tree(pico_host, tmp_path):
    ids_BT = torch.randint(3, 64, (3, 6), generator=torch.Generator().manual_seed(2))
    tree = make_tree(pico_host.sites, ("00", "01", "1"), shared=True, layers=(0, 1), temperature=0.5)
    save_tree(tree, tmp_path / "tree", provenance={"seed": 3})
    save_tree(tree, tmp_path / "again", provenance={"seed": 3})
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "tree" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    loaded = load_tree(tmp_path / "tree", host=pico_host)
    assert (loaded.gate.leaves, loaded.gate.layers, loaded.gate.temperature) == (
        ("00", "01", "1"),
        (0, 1),
        0.5,
    )
    assert torch.equal(logits_of(pico_host, loaded, ids_BT), logits_of(pico_host, tree, ids_BT))
    save_tree(loaded, tmp_path / "tree")  # in its own place
    save_tree(tree, tmp_path / "half", dtype=torch.bfloat16)
    assert load_tree(tmp_path / "half").leaves.a[pico_host.sites[0]].dtype == torch.float32


def test_a_damaged_tree_is_refused(pico_host, tmp_path):
    tree = make_tree(pico_host.sites, full(1))
    save_tree(tree, tmp_path / "tree")
    config, weights = tmp_path / "tree" / "config.json", tmp_path / "tree" / "model.safetensors"
    whole, values, tensors = weights.read_bytes(), json.loads(config.read_text()), load_file(weights)

    def refused(error, match, *, config_change=None, tensor_change=None):
        config.write_text(json.dumps(values | (config_change or {})))
        if tensor_change is not None:
            save_file({k: v for k, v in (tensors | tensor_change).items() if v is not None}, weights)
        with pytest.raises(error, match=match):
            load_tree(tmp_path / "tree", host=pico_host)
        weights.write_bytes(whole)

    refused(WeightsError, "asks for", config_change={"leaves": ["00", "01", "1"]})
    refused(ConfigError, "leads to no leaf", config_change={"leaves": ["0"]})
    refused(ConfigError, "unknown key", config_change={"depth": 3})
    refused(ConfigError, "describes a bush, not a tree", config_change={"kind": "bush"})
    refused(BaseMismatchError, "for base weft1-other", config_change={"base": "weft1-other"})
    refused(WeightsError, "lacks shared", config_change={"shared": True})
    refused(WeightsError, "does not know", tensor_change={"extra": torch.zeros(1)})
    refused(WeightsError, "lacks gate.bias_LN", tensor_change={"gate.bias_LN": None})
    refused(WeightsError, "NaN", tensor_change={"gate.bias_LN": torch.full((1, 1), float("nan"))})
    weights.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_tree(tmp_path / "tree")


def test_nothing_else_is_overwritten(pico_host, tmp_path):
    tree = make_tree(pico_host.sites, full(1))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model" / "model.safetensors").write_text("weights")
    for name in ("notes", "model"):
        with pytest.raises(SaveError, match="folder of its own"):
            save_tree(tree, tmp_path / name)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    tree.gate.bias_LN.data.fill_(float("nan"))
    with pytest.raises(ShapeError, match="NaN"):
        save_tree(tree, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_leaves_go_out_as_peft_folders(pico_host, tmp_path, shared):
    ids_BT = torch.randint(3, 64, (2, 6), generator=torch.Generator().manual_seed(2))
    tree = make_tree(pico_host.sites, full(1), shared=shared)
    folders = export_leaves(tree, tmp_path)
    assert folders == {"0": tmp_path / "leaf-0", "1": tmp_path / "leaf-1"}
    for k, path in enumerate(full(1)):
        always = Mixture() if tree.shared is None else Mixture.of(tree.shared)
        want = pico_host(ids_BT, Mixture.rows(tree.leaves, [k]) + always).logits
        got = pico_host(ids_BT, Mixture.of(adapters.load(folders[path]))).logits
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
        theirs = PeftModel.from_pretrained(make_llama(), str(folders[path]))(input_ids=ids_BT).logits
        torch.testing.assert_close(theirs, want, atol=1e-5, rtol=1e-4)
