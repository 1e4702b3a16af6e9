import numpy as np
import pytest

from weft.errors import ShapeError
from weft.evaluate import bootstrap, interval, p_value, task_means


def ragged(rng, sizes, scores=1):
    values = np.full((scores, len(sizes), max(sizes)), np.nan)
    for n, size in enumerate(sizes):
        places = rng.choice(max(sizes), size, replace=False)
        values[:, n, places] = rng.random((scores, size)) + n
    return values


def slow_bootstrap(values_NM, samples, rng):
    tasks = [row[~np.isnan(row)] for row in values_NM]
    means = []
    for _ in range(samples):
        drawn = []
        for _ in tasks:
            task = tasks[rng.integers(len(tasks))]
            drawn.append(np.mean([task[rng.integers(len(task))] for _ in task]))
        means.append(np.mean(drawn))
    return np.array(means)


def simulate(rng, tasks, rows, mean=0.6, spread=0.25):
    """Rows that are right with their task's own probability; the tasks' probabilities average to `mean`."""
    chance = np.clip(mean + rng.choice([-spread, spread], tasks), 0, 1)
    return (rng.random((1, tasks, rows)) < chance[:, None]).astype(float)


def test_task_means_weigh_tasks_and_not_rows():
    values = np.array([[[1.0, 0.0, np.nan], [1.0, np.nan, np.nan]]])
    assert task_means(values).tolist() == [[0.5, 1.0]]


def test_bootstrap_is_the_slow_one():
    rng = np.random.default_rng(0)
    values = ragged(rng, [1, 5, 3, 7, 2, 4])
    fast = bootstrap(values, samples=4000, seed=1)[:, 0]
    slow = slow_bootstrap(values[0], 4000, rng)
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.06)
    assert fast.std() == pytest.approx(slow.std(), rel=0.06)
    assert np.quantile(fast, [0.025, 0.975]) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.15)


def test_one_row_per_task_is_the_plain_bootstrap():
    values = np.arange(5.0).reshape(1, 5, 1)
    draws = bootstrap(values, samples=500)[:, 0] * 5
    assert np.allclose(draws, draws.round())
    assert draws.std() / 5 == pytest.approx(np.sqrt(2 / 5), rel=0.1)


def test_one_task_resamples_its_rows():
    values = np.array([[[0.0, 1.0, np.nan, 1.0]]])
    assert set((bootstrap(values, samples=200)[:, 0] * 3).round(6)) == {0.0, 1.0, 2.0, 3.0}


def test_equal_scores_differ_by_nothing():
    values = ragged(np.random.default_rng(2), [3, 4, 5])
    draws = bootstrap(np.concatenate([values, values]), samples=300)
    assert (draws[:, 0] == draws[:, 1]).all()


def test_the_seed_decides(monkeypatch):
    values = ragged(np.random.default_rng(3), [3, 4, 5])
    one = bootstrap(values, samples=50, seed=1)
    assert (bootstrap(values, samples=50, seed=1) == one).all()
    assert not (bootstrap(values, samples=50, seed=2) == one).all()


def test_many_samples_come_in_chunks(monkeypatch):
    monkeypatch.setattr("weft.evaluate.intervals._CHUNK", 100)
    draws = bootstrap(ragged(np.random.default_rng(3), [3, 4, 5]), samples=50)
    assert draws.shape == (50, 1)
    assert len(set(draws[:, 0])) == 50


@pytest.mark.parametrize(("tasks", "rows"), [(12, 4), (30, 8)])
def test_intervals_cover_the_truth(tasks, rows):
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(200):
        values = simulate(rng, tasks, rows)
        found = interval(task_means(values).mean(), bootstrap(values, samples=400, seed=seed)[:, 0])
        assert found.low <= found.mean <= found.high
        hits.append(found.low <= 0.6 <= found.high)
    assert 0.91 <= np.mean(hits) <= 0.99


def test_p_is_small_where_scores_differ_and_rarely_where_not():
    rng = np.random.default_rng(0)
    chance = []
    for seed in range(200):
        both = np.concatenate([simulate(rng, 30, 8), simulate(rng, 30, 8)])
        draws = bootstrap(both, samples=400, seed=seed)
        chance.append(p_value(draws[:, 0] - draws[:, 1]))
    assert np.mean(np.array(chance) < 0.05) <= 0.08
    better = np.concatenate([simulate(rng, 30, 8, mean=0.7), simulate(rng, 30, 8, mean=0.3)])
    draws = bootstrap(better, samples=400)
    assert p_value(draws[:, 0] - draws[:, 1]) == pytest.approx(2 / 401)
    assert p_value(np.zeros(400)) == 1.0


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ShapeError, match="at least one row"):
        bootstrap(np.full((1, 2, 2), np.nan))
    with pytest.raises(ShapeError, match="same rows"):
        bootstrap(np.array([[[1.0, np.nan]], [[1.0, 0.0]]]))
