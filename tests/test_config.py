"""Recipes: a key that is not known, and what was meant."""

import pytest

from weft.config import parse_config
from weft.errors import ConfigError
from weft.train import HyperRecipe, LoraRecipe

LORA = {"run": {"output_dir": "x", "max_steps": 1}, "base": "b", "data": {"kind": "folder", "path": "p"}}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("learning_rat", "optimizer.learning_rate"),
        ("epochs", "run.num_train_epochs"),
        ("max_steps", "run.max_steps"),
        ("dropout", "lora_dropout"),
        ("rank", "r"),
        ("lora_rank", "r"),
        ("per_device_train_batch_size", "rows_per_task"),
        ("targetmodules", "target_modules"),
        ("model_name_or_path", "base"),
    ],
)
def test_a_wrong_key_leads_to_the_one_that_was_meant(key: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(LoraRecipe, {**LORA, key: 1}, "mine.yaml")
    assert str(caught.value) == f"mine.yaml: unknown key {key} (did you mean {meant}?)"


@pytest.mark.parametrize("key", ["zzz", "x", ""])
def test_what_is_like_nothing_has_no_suggestion(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(LoraRecipe, {**LORA, key: 1}, "mine.yaml")
    assert str(caught.value) == f"mine.yaml: unknown key {key or repr('')}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"tasks": []},
            "tasks: Input should be a valid integer, got []; mine.yaml: tasks: Tuple",
        ),
        (
            {"load_best_model_at_end": True},
            "mine.yaml: the best step is known from evaluations",
        ),
        ({"run": {"output_dir": "x"}}, "mine.yaml: run: give one of max_steps and num_train_epochs, above 0"),
        ({f"zzz{i}": 1 for i in range(6)}, "and 3 more"),
    ],
)
def test_messages_speak_of_keys_alone(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(LoraRecipe, {**LORA, **change}, "mine.yaml")
    assert said in str(caught.value)
    assert not any(word in str(caught.value) for word in ("constrained", "tuple[", "Value error"))


def test_a_key_of_another_kind_of_the_section_is_not_offered_for_itself() -> None:
    data = {"kind": "letters", "test_ratio": 0.5}
    with pytest.raises(ConfigError) as caught:
        parse_config(LoraRecipe, {**LORA, "data": data}, "mine.yaml")
    assert "unknown key data.letters.test_ratio" in str(caught.value)
    assert "mean data.test_ratio" not in str(caught.value)


def test_a_key_belongs_to_the_recipe_that_is_read() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(HyperRecipe, {**LORA, "encoder": {"kind": "sentence"}, "rank": 4}, "mine.yaml")
    assert "did you mean network.rank?" in str(caught.value)


def test_an_unknown_kind_leads_to_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(LoraRecipe, {**LORA, "data": {"kind": "fle", "path": "p"}}, "mine.yaml")
    assert "mine.yaml: data.kind: 'fle' is unknown (did you mean file?); there are " in str(caught.value)
