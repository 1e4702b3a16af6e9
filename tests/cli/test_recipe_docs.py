"""docs/recipes.md tells every key of every recipe, with its meaning, as it is now."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from weft.config import Config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_recipes", DOCS / "make_recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_in_step(script: ModuleType) -> None:
    written = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert written == script.build_page(), "run `make docs`"


def test_every_key_has_a_meaning(script: ModuleType) -> None:
    assert script.missing() == []


def test_every_recipe_of_the_command_line_is_there(script: ModuleType) -> None:
    assert {"weft train lora", "weft train hyper", "weft eval", "weft experiment library"} <= set(
        script.RECIPES
    )
    page = script.build_page()
    for recipe in script.RECIPES.values():
        for key in _keys(recipe):
            assert f"| `{key}` |" in page


def _keys(kind: type[Config]) -> set[str]:
    inside = {key for info in kind.model_fields.values() for part in _inside(info) for key in _keys(part)}
    return {*kind.model_fields, *inside}


def _inside(info: object) -> list[type[Config]]:
    annotation = getattr(info, "annotation", None)
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Config) else []
