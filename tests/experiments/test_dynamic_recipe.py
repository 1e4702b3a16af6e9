"""What a recipe of `weft experiment dynamic` has to hold."""

from pathlib import Path

import pytest

from weft.cli.shared.recipe import read_recipe
from weft.errors import ConfigError
from weft.experiments.dynamic.recipe import DynamicRecipe
from weft.experiments.dynamic.stack import measure_stack

LETTERS = Path(__file__).parents[2] / "recipes/letters"


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("mix", ["mix.seeds=[]"], "mix.seeds"),
        ("mix", ["mix.seeds=[1,1]"], "the same one twice"),
        ("mix", ["mix.ways=[]"], "mix.ways"),
        ("stack", ["stack.splits=[]"], "stack.splits"),
        ("stack", ["stack.recipe.higher=[]"], "stack.recipe.higher"),
        ("mix", ["mix=null"], "nothing to measure"),
    ],
)
def test_nothing_to_measure_is_refused(name, overrides, told):
    with pytest.raises(ConfigError, match=told):
        read_recipe(DynamicRecipe, LETTERS / f"dynamic_{name}.yaml", overrides)


def test_an_unknown_split_is_named_before_anything_is_trained():
    recipe = read_recipe(DynamicRecipe, LETTERS / "dynamic_stack.yaml", ["stack.splits=[trian]"])
    with pytest.raises(ConfigError, match=r"no split 'trian' \(did you mean train\?\)"):
        measure_stack(recipe.stack)
