import json
import os
from unittest.mock import Mock

import numpy as np
import pytest
from library_on_disk import ENCODER, common, write_library

from weft import files
from weft.config import parse_config
from weft.errors import ConfigError, MissingFileError, SaveError
from weft.experiments.merging import measure as merging
from weft.experiments.merging.measure import SetScores, draw_set, measure_merging
from weft.experiments.merging.page import carried, differences, merging_page, points
from weft.experiments.merging.recipe import MergingRecipe
from weft.train.kept import lock_folder

METHODS = {
    "linear": {"method": "linear"},
    "sum": {"method": "concat", "weight": 1.0},
    "fisher": {"method": "fisher"},
    "slerp": {"method": "slerp"},
}


@pytest.fixture(scope="module")
def root(planted, tmp_path_factory):
    return write_library(planted, tmp_path_factory.mktemp("merging"))


def make_recipe(root, folder, **changes):
    values = common(root) | {
        "encoder": ENCODER,
        "sets": {1: 2, 2: 2},
        "methods": METHODS,
        "rows_per_task": 3,
        "statistics_rows": 2,
        "output_dir": str(folder),
    }
    return parse_config(MergingRecipe, values | changes, "test")


def by_key(scores):
    return {(one.size, one.draw, one.way): one for one in scores}


def test_what_is_measured(root, tmp_path):
    found = by_key(measure_merging(make_recipe(root, tmp_path)))
    ways = {"base", "own adapter", "routed", *METHODS}
    assert {way for size, _, way in found if size == 2} == ways
    assert {way for size, _, way in found if size == 1} == ways - {"slerp"}  # it is defined for two
    for size, draw in ((1, 0), (1, 1), (2, 0), (2, 1)):
        assert found[size, draw, "own adapter"].right == (1.0,) * size
        assert max(found[size, draw, "base"].right) < 1.0
    for draw in (0, 1):
        # A merge of one adapter is that adapter; of two contradictory ones it cannot be both.
        alone = found[1, draw, "own adapter"]
        for way in ("linear", "sum", "fisher", "routed"):
            np.testing.assert_allclose(found[1, draw, way].loss, alone.loss, atol=1e-4)
        assert min(found[2, draw, "sum"].right) < 1.0


def test_goes_on_where_it_stopped(root, tmp_path, monkeypatch):
    recipe = make_recipe(root, tmp_path)
    first = measure_merging(recipe)
    file = tmp_path / "scores.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])  # killed while it wrote
    counted = []
    score = merging._score
    monkeypatch.setattr(merging, "_score", lambda *args: counted.append(args[-1]) or score(*args))
    assert measure_merging(recipe) == first
    assert len(counted) == 2
    assert [json.loads(line) for line in file.read_text().splitlines()] == [json.loads(x) for x in lines]


def test_what_is_measured_is_not_lost(root, tmp_path, monkeypatch):
    """On a disk that refuses, while another run is under way."""
    recipe = make_recipe(root, tmp_path, sets={1: 1}, methods={})
    measure_merging(recipe)
    before = (tmp_path / "scores.jsonl").read_text()
    monkeypatch.setattr(files, "_sync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(SaveError, match="No space left"):
        measure_merging(recipe)
    monkeypatch.undo()
    assert (tmp_path / "scores.jsonl").read_text() == before
    lock = lock_folder(tmp_path)
    with pytest.raises(ConfigError, match="another run is under way"):
        measure_merging(recipe)
    os.close(lock)


def test_another_recipe_may_not_go_on(root, tmp_path):
    measure_merging(make_recipe(root, tmp_path, sets={1: 1}, methods={}))
    with pytest.raises(ConfigError, match="another recipe"):
        measure_merging(make_recipe(root, tmp_path, sets={1: 1}, methods={}, rows_per_task=2))
    measure_merging(make_recipe(root, tmp_path, sets={1: 2}, methods={}))  # more sets are no other recipe


def test_the_description_in_the_prompt_changes_what_the_base_says(root, tmp_path):
    loss = [
        measure_merging(make_recipe(root, tmp_path / str(told), sets={2: 1}, methods={}, described=told))[
            0
        ].loss
        for told in (False, True)
    ]
    assert loss[0] != loss[1]


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"methods": {"x": {"method": "lineal"}}}, Exception, "did you mean linear"),
        (
            {"methods": {"x": {"method": "ties", "options": {"densty": 0.1}}}},
            ConfigError,
            "did you mean density",
        ),
        ({"methods": {"base": {"method": "linear"}}}, ConfigError, "name of a reference"),
        ({"sets": {5: 1}}, ConfigError, "a set of 5 adapters, the library has 4"),
        ({"rows_per_task": 6}, ConfigError, "5 test rows, rows_per_task is 6"),
        ({"library": "nowhere"}, MissingFileError, "no folder of adapters at nowhere"),
    ],
)
def test_bad_recipes(root, tmp_path, changes, error, match):
    with pytest.raises(error, match=match):
        measure_merging(make_recipe(root, tmp_path, **changes))


def test_a_folder_without_an_adapter_of_these_tasks(root, tmp_path):
    with pytest.raises(MissingFileError, match="no adapter that is named as a task of train"):
        measure_merging(make_recipe(root, tmp_path, library=str(root / "tasks")))


def test_sets_are_drawn_without_repeats():
    drawn = [draw_set(9, 4, f"{draw}") for draw in range(20)]
    assert all(len(set(one)) == 4 and one == sorted(one) and max(one) < 9 for one in drawn)
    assert len({tuple(one) for one in drawn}) > 10
    assert drawn == [draw_set(9, 4, f"{draw}") for draw in range(20)]


def scores(way, size, draw, right, loss=None):
    return SetScores(size, draw, way, tuple(right), tuple(loss or [1 - x for x in right]))


def test_points_and_differences_are_means_over_sets_and_tasks():
    found = [
        scores("own adapter", 2, 0, (1.0, 1.0)),
        scores("own adapter", 2, 1, (1.0, 0.5)),
        scores("linear", 2, 0, (0.5, 0.0)),
        scores("linear", 2, 1, (0.25, 0.25)),
        scores("ties", 2, 0, (1.0, 0.5)),
        scores("ties", 2, 1, (0.25, 0.5)),
    ]
    mean = {(p.way, p.size): p.right.mean for p in points(found)}
    assert mean == {("own adapter", 2): 0.875, ("linear", 2): 0.25, ("ties", 2): 0.5625}
    told = {d.way: d for d in differences(found)}
    assert told["ties"].right.mean == pytest.approx(0.3125)
    assert told["ties"].loss.mean == pytest.approx(-0.3125)
    assert told["ties"].right.low <= 0.3125 <= told["ties"].right.high
    assert "linear" not in told


def test_what_a_way_carries_ends_at_its_first_fall():
    found = [scores("own adapter", n, 0, (1.0,) * n) for n in (1, 2, 4)]
    found += [scores("ties", n, 0, (right,) * n) for n, right in ((1, 1.0), (2, 0.8), (4, 0.95))]
    found += [scores("sum", n, 0, (right,) * n) for n, right in ((1, 0.95), (2, 0.9), (4, 0.89))]
    assert carried(points(found)) == {"own adapter": 4, "ties": 1, "sum": 2}


def test_the_page_holds_every_number(root, tmp_path):
    recipe = make_recipe(root, tmp_path)
    found = [scores("own adapter", 2, 0, (1.0, 1.0)), scores("linear", 2, 0, (0.5, 0.0))]
    page = merging_page(recipe, found, picture="curve.png", command="weft experiment merging x.yaml")
    assert "| linear | 0.250" in page
    assert "![exact match against the number of adapters](curve.png)" in page
    assert "weft experiment merging x.yaml" in page
    assert "torch" in page
