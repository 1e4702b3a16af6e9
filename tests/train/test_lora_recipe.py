"""Recipes that could not be run to their end are refused when they are read."""

from pathlib import Path

import pytest
from tiny_training import lora_recipe, write_tasks

from weft.config import parse_config
from weft.errors import ConfigError
from weft.train import LoraRecipe


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_to": "wandbb"}, "report_to"),
        ({"max_steps": 0}, "one of max_steps and num_train_epochs"),
        ({"num_train_epochs": 2}, "one of max_steps and num_train_epochs"),
        ({"max_steps": 10**12}, "max_steps"),
        ({"output_dir": "a\ud83d"}, "output_dir holds a lone surrogate"),
        ({"seed": 2**64}, "seed is"),
    ],
)
def test_what_cannot_run_is_refused_before_it_begins(
    changes: dict[str, object], message: str, tasks: Path, tmp_path: Path
) -> None:
    values = lora_recipe(tasks, tmp_path).model_dump(mode="json")
    with pytest.raises(ConfigError, match=message):
        parse_config(LoraRecipe, {**values, "run": {**values["run"], **changes}}, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 9000),
        ("r", 10**30),
        ("lora_alpha", float("inf")),
        ("optimizer", {"learning_rate": float("inf")}),
        ("optimizer", {"learning_rate": float("nan")}),
        ("tasks", []),
        ("target_modules", []),
        ("attn_implementation", "flash_attention_2"),
        ("max_length", 2**64),
        ("rows_per_task", 10**12),
    ],
)
def test_a_recipe_that_could_not_be_trained_or_saved_is_refused_before_it_begins(
    key: str, value: object, tasks: Path, tmp_path: Path
) -> None:
    values = lora_recipe(tasks, tmp_path).model_dump(mode="json")
    with pytest.raises(ConfigError, match=key) as caught:
        parse_config(LoraRecipe, {**values, key: value}, "here")
    assert len(str(caught.value)) < 400
