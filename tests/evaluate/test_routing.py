import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from library_on_disk import ENCODER, common, write_library

from weft.config import parse_config
from weft.errors import ConfigError
from weft.evaluate.embeddings import measure_embeddings
from weft.evaluate.routing import Found, Requests, RoutingRecipe, measure_routing
from weft.evaluate.routing_report import routing_page, summarise_ways
from weft.evaluate.ways import spread, watch
from weft.route import Arrow
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
        "singles": {"first alone": str(root / "library" / "first")},
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
        "base", "base, described", "oracle", "oracle, described", "best single", "uniform average",
        "sum of all", "first alone", "average", "fisher", "nearest, states", "nearest, states, one label",
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
    assert ways["sum of all"].active == 4
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
    assert {one.size for one in retrieved} == {3, 4}
    same = {one.size: one.top1.mean for one in retrieved if one.embedding == "the adapter"}
    assert same == {3: 1.0, 4: 1.0}


def test_weights_told_by_loops():
    weight_STK = np.random.default_rng(0).random((2, 3, 5))
    scores = np.ones((3, 4, 2))
    found = Found("x", "wording", 5.0, scores, weight_STK, 1.0)
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


def test_weights_of_tasks_go_to_their_rows(planted):
    one_hot = spread(planted.bank, torch.eye(4)[[2, 0]], 2).terms[0].gate.assignment
    assert isinstance(one_hot, Rows)
    assert one_hot.index_B.tolist() == [2, 2, 0, 0]
    soft = spread(planted.bank, torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]), 2).terms[0].gate.assignment
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


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"distractors": 2}, "3 tasks and 2 distractors; the library has 4"),
        ({"rows_per_task": 3}, "5 test rows, not 2 times 3"),
    ],
)
def test_bad_recipes(root, changes, match):
    with pytest.raises(ConfigError, match=match):
        measure_routing(make_recipe(root, gates=None, lorahub=None, merges={}, **changes))
    with pytest.raises(ConfigError, match="retrieval among 9 adapters, the library has 4"):
        measure_embeddings(make_recipe(root, sizes=(9,)))
