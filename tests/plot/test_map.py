from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.embed import LibraryMap, lay_out, plan_to_dict
from weft.errors import ShapeError
from weft.plot.map import draw_map

COSINES = np.array([[1.0, 0.9, 0.1, 0.2], [0.9, 1.0, 0.3, 0.0], [0.1, 0.3, 1.0, -0.5], [0.2, 0.0, -0.5, 1.0]])


def grouped(count: int, groups: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of unit vectors around a few orthogonal directions, and which direction each is around."""
    chance = np.random.default_rng(seed)
    group_K = np.arange(count) % groups
    vectors_KD = 3 * np.eye(groups, 40)[group_K] + chance.normal(size=(count, 40)) * 0.2
    vectors_KD /= np.linalg.norm(vectors_KD, axis=1, keepdims=True)
    return vectors_KD @ vectors_KD.T, group_K


def names_of(count: int) -> list[str]:
    return [f"adapter-{k}" for k in range(count)]


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_found_and_kept_together(groups: int) -> None:
    cosine_KK, group_K = grouped(20, groups)
    found = lay_out(names_of(20), cosine_KK)
    same_KK = group_K[:, None] == group_K
    assert np.array_equal(found.cluster_K[:, None] == found.cluster_K, same_KK)
    assert np.bincount(found.cluster_K).tolist() == sorted(np.bincount(group_K).tolist(), reverse=True)
    assert np.allclose(np.abs(found.place_K2).max(0), 1.0)
    near_K = [row[0] for row in found.neighbours]
    assert np.array_equal(group_K[near_K], group_K)
    far_KK = np.linalg.norm(found.place_K2[:, None] - found.place_K2, axis=-1) + 9 * np.eye(20)
    assert np.array_equal(group_K[far_KK.argmin(1)], group_K)
    assert found.kept > 0.5


def test_neighbours_and_centres_by_hand() -> None:
    place_K2 = np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0], [1.0, 1.0]])
    found = LibraryMap(("a", "b", "c", "d"), COSINES, place_K2, np.array([0, 0, 0, 1]))
    assert found.neighbours == ((1, 3, 2), (0, 2, 3), (1, 0, 3), (0, 1, 2))
    assert found.centres == (1, 3)
    assert found.kept == 1.0
    told = plan_to_dict(found)
    assert told["clusters"] == [
        {"cluster": 0, "centre": "b", "size": 3},
        {"cluster": 1, "centre": "d", "size": 1},
    ]
    assert told["adapters"][2] == {
        "name": "c",
        "x": 1.0,
        "y": 0.0,
        "cluster": 0,
        "nearest": [
            {"name": "b", "cosine": 0.3},
            {"name": "a", "cosine": 0.1},
            {"name": "d", "cosine": -0.5},
        ],
    }


def test_what_the_plane_loses_is_told() -> None:
    cosine_KK = np.eye(5) + 0.5 * (np.eye(5, k=1) + np.eye(5, k=-1))
    cosine_KK[0, 1] = cosine_KK[1, 0] = 0.9
    line_K2 = np.array([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    found = LibraryMap(tuple("abcde"), cosine_KK, line_K2, np.zeros(5, dtype=np.int64))
    # a's nearest is b, which is the farthest here; b's nearest is a, c's is b.
    assert found.kept == pytest.approx(2 / 5)


@settings(max_examples=6, deadline=None)
@given(count=st.integers(2, 9), seed=st.integers(0, 1000))
def test_any_library_has_a_map(count: int, seed: int) -> None:
    cosine_KK, _ = grouped(count, min(3, count), seed=seed)
    found = lay_out(names_of(count), cosine_KK)
    assert np.isfinite(found.place_K2).all()
    assert np.abs(found.place_K2).max() <= 1 + 1e-9
    assert len(found.centres) <= max(1, count // 3)


def test_equal_ones_among_others_share_a_place() -> None:
    cosine_KK, _ = grouped(9, 3)
    twice = np.ix_([0, *range(9)], [0, *range(9)])
    found = lay_out(names_of(10), cosine_KK[twice])
    assert found.neighbours[0][0] == 1
    assert np.linalg.norm(found.place_K2[0] - found.place_K2[1]) < 0.2


def test_the_same_library_gives_the_same_picture(tmp_path: Path) -> None:
    cosine_KK, _ = grouped(12, 3)
    names = ["_under", "$dollar$", "x" * 90, *names_of(9)]
    for name in ("a.png", "b.png"):
        draw_map(lay_out(names, cosine_KK), tmp_path / name, title="12 $adapters")
    picture = (tmp_path / "a.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("names", "cosines", "message"),
    [
        ([], np.zeros((0, 0)), "at least two adapters, the library has 0"),
        (["a"], np.ones((1, 1)), "the library has 1"),
        (["a", "b"], np.ones((3, 3)), "2 names"),
        (["a", "b"], np.ones((2, 2)), "all 2 adapters are equal"),
        (["a", "b"], np.array([[1.0, np.nan], [np.nan, 1.0]]), "NaN"),
        (["a", "b"], np.array([[1.0, 0.0], [0.0, 0.0]]), "b changes nothing"),
    ],
)
def test_what_has_no_map_is_refused(names: list[str], cosines: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        lay_out(names, cosines)


def test_an_adapter_that_is_like_no_others_is_in_no_cluster(tmp_path: Path) -> None:
    """Two tight groups, and one that lies between them: a cluster would say that it is like its mates."""
    cosine_KK = np.full((7, 7), 0.05)
    cosine_KK[:3, :3] = cosine_KK[3:6, 3:6] = 0.8
    cosine_KK[6, :] = cosine_KK[:, 6] = 0.05
    np.fill_diagonal(cosine_KK, 1.0)
    found = lay_out(list("abcdefg"), cosine_KK)
    assert found.cluster_K.tolist() == [0, 0, 0, 1, 1, 1, -1]
    told = plan_to_dict(found)
    assert [cluster["size"] for cluster in told["clusters"]] == [3, 3]
    assert told["adapters"][6]["cluster"] == -1
    draw_map(found, tmp_path / "map.png", title="seven")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
