from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import ConfigError, ShapeError
from weft.evaluate.retrieval import ranks, retrieval


def slow_accuracy(similarity_QK: np.ndarray, right_Q: np.ndarray, k: int, size: int) -> float:
    """Every library of that size that holds the right one; tasks weigh the same."""
    by_task: dict[int, list[float]] = {}
    for row, right in zip(similarity_QK, right_Q, strict=True):
        others = [j for j in range(len(row)) if j != right]
        hits = [sum(row[j] >= row[right] for j in drawn) < k for drawn in combinations(others, size - 1)]
        by_task.setdefault(int(right), []).append(float(np.mean(hits)))
    return float(np.mean([np.mean(scores) for scores in by_task.values()]))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_accuracy_is_the_mean_over_all_libraries(data: st.DataObject) -> None:
    tasks, requests = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    chance = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    similarity_QK = chance.integers(0, 4, size=(requests, tasks)).astype(float)
    right_Q = chance.integers(tasks, size=requests)
    size = data.draw(st.integers(1, tasks))
    k = data.draw(st.integers(1, size))
    found = retrieval(similarity_QK, right_Q, k=(k,), size=size, samples=20)[k]
    assert found.mean == pytest.approx(slow_accuracy(similarity_QK, right_Q, k, size), abs=1e-9)
    assert 0 <= found.low <= found.high <= 1


def test_accuracies_by_hand() -> None:
    similarity_QK = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.6], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    right_Q = np.array([0, 1, 2, 2])
    assert ranks(similarity_QK, right_Q).tolist() == [0, 2, 0, 2]
    found = retrieval(similarity_QK, right_Q, k=(1, 2, 3))
    assert [found[k].mean for k in (1, 2, 3)] == [0.5, 0.5, 1.0]
    assert found[1].low == 0.0
    assert (found[3].low, found[3].high) == (1.0, 1.0)


def test_a_tie_is_no_hit() -> None:
    found = retrieval(np.ones((4, 4)), range(4), k=(1, 4))
    assert (found[1].mean, found[4].mean) == (0.0, 1.0)


def test_smaller_libraries_are_easier() -> None:
    similarity_QK = np.random.default_rng(0).normal(size=(40, 40)) + 2 * np.eye(40)
    means = [retrieval(similarity_QK, range(40), k=(1,), size=n)[1].mean for n in (1, 4, 16, 40)]
    assert means[0] == 1.0
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.7


@pytest.mark.parametrize(
    ("similarity", "right", "options", "error", "message"),
    [
        (np.zeros((0, 3)), [], {}, ShapeError, "0 right places"),
        (np.zeros((2, 3)), [0], {}, ShapeError, "1 right places"),
        (np.zeros((1, 3)), [3], {}, ShapeError, "from 0 to 2"),
        (np.full((1, 3), np.nan), [0], {}, ShapeError, "NaN"),
        (np.zeros((1, 2)), [0], {}, ConfigError, r"k is \[1, 3\], a library of 2 allows 1 to 2"),
        (np.zeros((1, 3)), [0], {"k": (0,)}, ConfigError, "1 to 3"),
        (np.zeros((1, 3)), [0], {"size": 4}, ConfigError, "library of 4"),
    ],
)
def test_wrong_questions_are_refused(
    similarity: np.ndarray, right: list[int], options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        retrieval(similarity, right, **options)
