import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from library_on_disk import ENCODER, common, write_library
from torch.nn.functional import cross_entropy

from weft.config import parse_config
from weft.errors import ConfigError
from weft.evaluate.specialists import Specialists
from weft.experiments.library.embeddings import measure_embeddings
from weft.experiments.library.learned_ways import _draw, layer_weights, learn_gates
from weft.experiments.library.measure import Measured, measure_routing
from weft.experiments.library.page import routing_page, summarise_ways
from weft.experiments.library.recipe import GateTraining, LayerTraining, RoutingRecipe
from weft.experiments.library.requests import Requests
from weft.experiments.library.ways import _trees, spread, watch
from weft.route import Arrow, LayerWeights, Tree, TreeGate, full, learn, save_tree
from weft.tasks import render
from weft.types import Dense, Mixture, Rows, Term


@pytest.fixture(scope="module")
def root(planted, tmp_path_factory):
    return write_library(planted, tmp_path_factory.mktemp("routing"))


def make_recipe(root, **changes):
    values = common(root) | {
        "tasks": 3,
        "distractors": 1,
        "encoders": {"states": ENCODER},
        "examples": 2,
        "gates": {"steps": 2},
        "lorahub": {"candidates": 3, "budget": 6, "at_once": 2},
        "merges": {"average": {"method": "linear"}, "fisher": {"method": "fisher"}},
        "layers": {"candidates": 3, "steps": 3},
        "singles": {
            "first alone": {"path": str(root / "library" / "first")},
            "first, told": {"path": str(root / "library" / "first"), "described": True},
        },
        "early": {"the same": str(root / "library")},
        "sizes": (3, 4),
        "seeds": (0, 1),
        "rows_per_task": 2,
    }
    return parse_config(RoutingRecipe, values | changes, "test")


@pytest.fixture(scope="module")
def measured(root):
    recipe = make_recipe(root)
    library, found = measure_routing(recipe)
    return recipe, library, {way.name: way for way in summarise_ways(found, len(recipe.seeds))}


def test_every_way_is_measured_on_the_same_rows(measured):
    _, library, ways = measured
    assert len(library) == 4
    expected = {
        "base", "base, described", "oracle", "oracle, described", "oracle at 1/4, described",
        "best single", "uniform average",
        "sum of all", "first alone", "first, told",
        "layer weights (CAT)", "average", "fisher", "nearest, states", "nearest, states, one label",
        "nearest 3 blended, states", "classifier, states", "lorahub", "arrow", "spectr", "arrow, described",
        "spectr, described", "x-lora", "top 1, straight-through", "smear", "phatgoose",
    }  # fmt: skip
    assert set(ways) == expected
    # Planted answers do not depend on the question, so the right adapter is always right.
    assert ways["oracle"].right.mean == 1.0
    assert (ways["oracle"].accuracy, ways["oracle"].entropy, ways["oracle"].dead) == (1.0, 0.0, 0)
    assert ways["base"].right.mean < 0.5
    assert ways["base"].accuracy is None
    assert ways["base"].time == 1.0
    assert ways["best single"].right.mean <= 2 / 3
    # The uniform average is the merge of that name, by another path.
    assert ways["uniform average"].loss.mean == pytest.approx(ways["average"].loss.mean, abs=1e-4)
    assert (ways["sum of all"].active, ways["sum of all"].total) == (4, 4)
    assert (ways["oracle"].active, ways["oracle"].total) == (1, 4)
    assert (ways["layer weights (CAT)"].active, ways["layer weights (CAT)"].total) == (3, 4)
    assert (ways["first, told"].active, ways["first, told"].total) == (1, 1)
    assert (ways["first alone"].sees, ways["first, told"].sees) == ("nothing", "prompt with description")
    assert ways["first alone"].loss.mean != ways["first, told"].loss.mean
    for name in ("nearest, states", "classifier, states"):
        # Where it chooses its own adapters it answers as the oracle does.
        assert ways[name].right.mean >= ways[name].accuracy - 1e-9


def test_the_page_has_a_line_for_every_way(measured, root):
    recipe, _, ways = measured
    retrieved = measure_embeddings(recipe)
    page = routing_page(recipe, list(ways.values()), retrieved, pictures=("a.png", "b.png"), command="weft x")
    for name in ways:
        assert f"| {name} | " in page
    assert "| the adapter | the same | 4 | 4 | 1.000 [1.000, 1.000]" in page
    base, own = ways["base, described"], ways["oracle, described"]
    note = f"the base alone has loss {base.loss.mean:.3f};"
    assert (note in page) == (own.loss.mean > base.loss.mean)
    turned = ways | {base.name: replace(base, loss=own.loss), own.name: replace(own, loss=base.loss)}
    page = routing_page(recipe, list(turned.values()), [], pictures=("a.png", "b.png"), command="weft x")
    assert ("the base alone has loss" in page) == (own.loss.mean < base.loss.mean)
    assert {one.size for one in retrieved} == {3, 4}
    same = {one.size: one.top1.mean for one in retrieved if one.embedding == "the adapter"}
    assert same == {3: 1.0, 4: 1.0}


def test_weights_told_by_loops():
    weight_STK = np.random.default_rng(0).random((2, 3, 5))
    scores = np.ones((3, 4, 2))
    found = Measured("x", "wording", 5.0, 5.0, scores, weight_STK, 1.0)
    [way, _] = summarise_ways([found, replace(found, name="oracle")], seeds=2)
    right, entropy, first = [], [], set()
    for s in range(2):
        for t in range(3):
            p = weight_STK[s, t] / weight_STK[s, t].sum()
            right.append(max(range(5), key=lambda k, p=p: p[k]) == t)
            entropy.append(-sum(q * math.log(q) for q in p))
            first.add(int(p.argmax()))
    assert way.accuracy == pytest.approx(np.mean(right))
    assert way.entropy == pytest.approx(np.mean(entropy))
    assert way.dead == len({0, 1, 2} - first)


def test_a_tree_passes_one_leaf_or_all(planted, root, tmp_path):
    shared = planted.bank.select(torch.tensor([0]))
    tree = Tree(planted.bank, TreeGate(full(2), 32), shared)
    save_tree(tree, tmp_path / "tree")
    recipe = make_recipe(root, trees={"oak": str(tmp_path / "tree")})
    ways = _trees(recipe, planted.host, 4)
    assert [way.name for way in ways] == ["oak, hard", "oak, soft"]
    assert [(way.active, way.total) for way in ways] == [(1 + 1, 4 + 1), (4 + 1, 4 + 1)]
    assert all(way.described for way in ways)
    hard, soft = (planted.host(torch.tensor([[5, 6, 7]]), way.mixture).logits for way in ways)
    torch.testing.assert_close(hard, planted.host(torch.tensor([[5, 6, 7]]), tree.mixture).logits)
    assert not torch.allclose(hard, soft)


def test_weights_of_tasks_go_to_their_rows(planted):
    one_hot = spread(planted.bank, torch.eye(4)[[2, 0]], 2).terms[0].gate
    assert isinstance(one_hot, Rows)
    assert one_hot.index_B.tolist() == [2, 2, 0, 0]
    soft = spread(planted.bank, torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]), 2).terms[0].gate
    assert isinstance(soft, Dense)
    assert soft.weight.tolist() == [[0.5, 0.5, 0, 0]] * 2 + [[0, 0, 0, 1.0]] * 2


def test_watching_a_gate_counts_what_it_assigns(planted):
    rows = tuple(task.test[0] for task in planted.tasks)
    requests = Requests(rows, ("",) * 4, ("",) * 4, 1)
    weight_TK = watch(planted.host, Term(planted.bank, Arrow(planted.bank, top_k=2)), requests, False)
    torch.testing.assert_close(weight_TK.sum(-1), torch.ones(4))
    fixed = Mixture.dense(planted.bank, torch.tensor([[1.0, 3.0, 0.0, 0.0]])).terms[0]
    weight_TK = watch(planted.host, fixed, requests, False)
    torch.testing.assert_close(weight_TK, torch.tensor([[0.25, 0.75, 0.0, 0.0]]).expand(4, 4))


def _rows_with_train(planted):
    tasks = tuple(replace(task, train=task.test[:3]) for task in planted.tasks)
    return Specialists(tasks, tuple(planted.bank[k] for k in range(4)))


def test_layer_weights_of_a_task_are_those_that_it_learns_alone(planted):
    library, options = _rows_with_train(planted), LayerTraining(candidates=3, steps=4, learning_rate=0.1)
    got_TLK = layer_weights(options, planted.host, library, 3, planted.bank, 2, 7)
    assert got_TLK.shape == (3, 1, 4)
    for t in range(3):
        chosen, rows = _draw(library, t, 3, 2, 7)
        assert chosen[0] == t
        assert len(set(chosen)) == 3
        part = planted.bank.select(torch.tensor(chosen))
        gate = LayerWeights(3, (0,))
        encoded = [render(planted.host.tokenizer, row) for row in rows]

        def loss(step, part=part, gate=gate, encoded=encoded):
            total = torch.zeros(())
            for row in encoded:
                logits = planted.host(torch.tensor([row.ids]), Mixture((Term(part, gate),))).logits
                said = logits[0, len(row.prompt_ids) - 1 : -1]
                total = total + cross_entropy(said, torch.tensor(row.completion_ids))
            return total / len(encoded)

        learn(gate, loss, steps=4, learning_rate=0.1, max_grad_norm=1e9)
        torch.testing.assert_close(got_TLK[t, 0, chosen], gate.weight_LK[0].detach(), atol=1e-4, rtol=1e-4)
        [left_out] = set(range(4)) - set(chosen)
        assert got_TLK[t, 0, left_out] == 0
    empty = Specialists(planted.tasks, library.adapters)
    with pytest.raises(ConfigError, match="task first has no train rows to show"):
        layer_weights(options, planted.host, empty, 3, planted.bank, 2, 7)


def test_every_adapter_has_a_phatgoose_gate_that_learned(planted):
    """Those of the distractors too, else they distract nobody: a gate of zeros scores 0."""
    library = _rows_with_train(planted)
    found = learn_gates(GateTraining(steps=2), planted.host, library, 3, planted.bank, lambda _: None)
    gates = {name: term.gate for name, term, _ in found}
    for v_KI in gates["phatgoose"].gates.values():
        assert (v_KI.abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"distractors": 2}, "3 tasks and 2 distractors; the library has 4"),
        ({"rows_per_task": 3}, "5 test rows, not 2 times 3"),
    ],
)
def test_bad_recipes(root, changes, match):
    with pytest.raises(ConfigError, match=match):
        measure_routing(make_recipe(root, gates=None, lorahub=None, layers=None, merges={}, **changes))
    with pytest.raises(ConfigError, match="retrieval among 9 adapters, the library has 4"):
        measure_embeddings(make_recipe(root, sizes=(9,)))
