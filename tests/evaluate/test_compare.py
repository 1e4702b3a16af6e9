from dataclasses import replace

import numpy as np
import pytest
import torch

from weft.engine import Engine
from weft.errors import ConfigError
from weft.evaluate import (
    CONDITIONS,
    Options,
    build_conditions,
    compare,
    draw_wordings,
    exact_match,
    rouge_l,
    tell_too,
)
from weft.evaluate.scorer import Scorer
from weft.tasks import Row, Task
from weft.types import Mixture

OPTIONS = Options(seeds=(0, 1, 2), rows_per_task=3, max_new_tokens=5, batch_size=64, bootstrap_samples=300)
OTHER = "generated, other task's description"


@pytest.fixture(scope="module")
def oracles(planted):
    return {name: planted.bank[k] for k, name in enumerate(planted.bank.names)}


@pytest.fixture(scope="module")
def split(planted, oracles):
    some = {name: oracles[name] for name in ("first", "third")}
    makers = {"hypernetworks": [planted.hyper], "multitask": planted.bank[0], "oracles": some}
    return compare(planted.host, {"train": planted.tasks}, **makers, options=OPTIONS)[0]


def test_the_planted_adapters_are_found(split):
    found = {r.condition: r for r in split.results}
    assert tuple(found) == CONDITIONS
    for name in ("oracle", "generated", "generated, unseen wording"):
        assert found[name].metrics["exact_match"].mean == 1.0
        assert found[name].metrics["rouge_l"].mean == 1.0
        assert found[name].metrics["loss"].mean < 0.2
    for name in ("base", "base+description", OTHER, "generated, gibberish"):
        assert found[name].metrics["exact_match"].mean == 0.0
        assert found[name].metrics["loss"].mean > 1.0
    assert found["multitask"].metrics["exact_match"].mean == pytest.approx(0.25)
    margin = next(c for c in split.comparisons if c.name.endswith("(steering margin)"))
    assert margin.differences["exact_match"].low == 1.0
    assert margin.p["exact_match"] == pytest.approx(2 / 301)
    assert margin.ratio is None
    assert -1 <= min(split.cosine) <= max(split.cosine) < 0.9
    assert len(split.cosine) == 3


def test_a_constant_adapter_is_found_out(planted):
    """The network that ignores its description: as good with another task's, and no diversity."""
    first = planted.tasks[0]
    same = [replace(first, name=f"copy-{i}", descriptions=(f"say {i}", f"write {i}")) for i in range(3)]
    hyper = type(planted.hyper)(planted.bank.select(places(0, 0, 0)), same)
    found = compare(planted.host, {"train": same}, hypernetworks=[hyper], options=OPTIONS)[0]
    margin = next(c for c in found.comparisons if c.name.endswith("(steering margin)"))
    assert next(r for r in found.results if r.condition == OTHER).metrics["exact_match"].mean == 1.0
    assert margin.differences["exact_match"].mean == 0.0
    assert margin.p["exact_match"] == 1.0
    assert found.cosine == pytest.approx((1.0, 1.0, 1.0))


def places(*index):
    return torch.tensor(index)


def test_rows_and_tasks_are_counted(split):
    found = {r.condition: r for r in split.results}
    assert split.tasks == 4
    assert found["base"].tasks == 4
    assert found["oracle"].tasks == 2
    assert found["oracle"].reason == "2 of 4 tasks have an adapter of their own"
    assert 4 * 3 <= split.rows <= 4 * 5
    assert found["oracle"].rows < found["base"].rows == found["generated"].rows == split.rows
    against = {c.first: c for c in split.comparisons if c.second == "oracle"}
    assert set(against) == {"generated", "generated, unseen wording"}
    for one in against.values():
        assert one.tasks == 2
        assert one.ratio is not None
        assert one.ratio.mean == 1.0
    assert set(split.by_task["second"]) == set(CONDITIONS) - {"oracle"}
    assert split.by_task["first"]["multitask"] == 1.0


def test_descriptions_can_be_in_the_prompt_too(planted):
    options = OPTIONS.model_copy(update={"with_description": True, "seeds": (0,)})
    [split] = compare(
        planted.host,
        {"train": planted.tasks},
        hypernetworks=[planted.hyper],
        multitask=planted.bank[0],
        options=options,
    )
    names = [result.condition for result in split.results]
    assert names == [*CONDITIONS, "multitask+description", "generated+description"]
    assert all(result.rows == split.rows for result in split.results if result.condition != "oracle")
    against = {(c.first, c.second) for c in split.comparisons}
    assert ("generated+description", "multitask+description") in against


def test_equal_runs_give_equal_reports(planted, split, oracles):
    some = {name: oracles[name] for name in ("first", "third")}
    makers = {"hypernetworks": [planted.hyper], "multitask": planted.bank[0], "oracles": some}
    again = compare(planted.host, {"train": planted.tasks}, **makers, options=OPTIONS)[0]
    assert again == split
    slow = OPTIONS.model_copy(update={"batch_size": 17})
    other = compare(planted.host, {"train": planted.tasks}, **makers, options=slow, shortcut=False)[0]
    for one, two in zip(split.results, other.results, strict=True):
        assert one.by_seed["exact_match"] == two.by_seed["exact_match"]
        assert one.by_seed["rouge_l"] == two.by_seed["rouge_l"]
        assert one.by_seed["loss"] == pytest.approx(two.by_seed["loss"], abs=1e-4)


def test_scores_are_those_of_single_rows(planted):
    """Each condition against one row at a time through the engine."""
    engine = Engine(planted.host)
    scorer = Scorer(engine, planted.tasks, Options(max_new_tokens=8, batch_size=6))
    wordings = draw_wordings(planted.tasks, 1)
    rows_N = [(0, 2), (1,), (4, 3), (2,)]
    conditions = build_conditions(
        planted.tasks,
        wordings,
        hyper=planted.hyper,
        multitask=planted.bank[1],
        oracles={"third": planted.bank[2]},
    )
    for condition in (*conditions, *tell_too(conditions)):
        scores = scorer.score(condition, rows_N, wordings.seen)
        for n, task in enumerate(planted.tasks):
            for m, row in enumerate(task.test):
                if condition.adapter_N[n] is None or m not in rows_N[n]:
                    assert np.isnan(scores[n, m]).all()
                    continue
                turns = [{"role": "user", "content": row.prompt}]
                if condition.described:
                    turns.insert(0, {"role": "system", "content": wordings.seen[n]})
                mixture = None
                if condition.bank is not None:
                    mixture = Mixture.rows(condition.bank, [condition.adapter_N[n]])
                text = engine.generate(turns, mixture=mixture, max_new_tokens=8)
                assert scores[n, m, 0] == exact_match(text, row.answers)
                assert scores[n, m, 1] == rouge_l(text, row.answers)


def test_an_answer_is_not_asked_for_twice(planted, monkeypatch):
    scorer = Scorer(Engine(planted.host), planted.tasks, Options(max_new_tokens=8, batch_size=6))
    wordings = draw_wordings(planted.tasks, 0)
    base = build_conditions(planted.tasks, wordings)[0]
    first = scorer.score(base, [(0, 1)] * 4, wordings.seen)
    forwards = []
    forward = planted.host.forward
    monkeypatch.setattr(planted.host, "forward", lambda *a, **k: forwards.append(a) or forward(*a, **k))
    assert np.array_equal(scorer.score(base, [(1, 0)] * 4, wordings.seen), first, equal_nan=True)
    assert not forwards
    scorer.score(base, [(2,)] * 4, wordings.seen)
    assert forwards


def test_tasks_with_an_adapter_come_first(planted, oracles):
    options = OPTIONS.model_copy(update={"seeds": (0,), "max_tasks": 2})
    for names in (("first", "fourth"), ("second", "third")):
        makers = {name: oracles[name] for name in names}
        found = compare(planted.host, {"train": planted.tasks}, oracles=makers, options=options)[0]
        assert tuple(found.by_task) == names


def test_one_hypernetwork_per_seed(planted):
    shifted = type(planted.hyper)(planted.bank.select(places(1, 2, 3, 0)), planted.tasks)
    options = OPTIONS.model_copy(update={"seeds": (0, 7)})
    found = compare(
        planted.host, {"train": planted.tasks}, hypernetworks=[planted.hyper, shifted], options=options
    )[0]
    generated = next(r for r in found.results if r.condition == "generated")
    assert generated.by_seed["exact_match"] == (1.0, 0.0)
    assert generated.metrics["exact_match"].mean == pytest.approx(0.5, abs=0.2)
    with pytest.raises(ConfigError, match="one hypernetwork, or one per seed"):
        compare(planted.host, {"train": planted.tasks}, hypernetworks=[planted.hyper] * 3, options=options)


def test_rows_that_do_not_fit_are_left_out_and_told(planted):
    long = Row("a" * 60, "ab")
    tasks = [replace(planted.tasks[0], test=(*planted.tasks[0].test, long)), *planted.tasks[1:]]
    tasks.append(Task(name="long", descriptions=("say long",), test=(long,)))
    found = compare(planted.host, {"train": tasks}, options=OPTIONS.model_copy(update={"rows_per_task": 6}))[
        0
    ]
    assert found.tasks == 4
    assert found.rows == 20
    assert found.notes[0].startswith("6 of the rows drawn do not fit the window of 48 tokens")
    assert found.notes[1].startswith("1 tasks have no row")
    with pytest.raises(ConfigError, match="no test row fits"):
        compare(planted.host, {"train": tasks[-1:]}, options=OPTIONS)


def test_bad_requests_get_one_line(planted):
    no_rows = Task(name="a", descriptions=("say a",), train=(Row("x", "y"),))
    text = Task(name="a", descriptions=("say a",), test=(Row("", "plain text"),))
    with pytest.raises(ConfigError, match="no task of split dev has test rows"):
        compare(planted.host, {"dev": [no_rows]}, options=OPTIONS)
    with pytest.raises(ConfigError, match="plain text"):
        compare(planted.host, {"dev": [text]}, options=OPTIONS)
    for seeds in ((), (1, 1)):
        with pytest.raises(ConfigError, match="seeds"):
            compare(
                planted.host, {"train": planted.tasks}, options=OPTIONS.model_copy(update={"seeds": seeds})
            )
