"""Recipe files with changes from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from weft.cli.shared.screen import print_json
from weft.errors import ConfigError

if TYPE_CHECKING:
    from weft.config import Config

    C = TypeVar("C", bound=Config)

Overrides = Annotated[str, Parameter(allow_leading_hyphen=True, help="Keys of the recipe and their values.")]
"""Raw tokens: `run.max_steps=100`, `--run.max-steps 100` or `--run.max-steps=100`."""


def read_recipe(schema: type[C], path: Path, tokens: Sequence[str]) -> C:
    """A recipe with the changes that the tokens say. Raises MissingFileError, ConfigError."""
    from weft.config import load_config

    return load_config(schema, path, parse_overrides(tokens))


def parse_overrides(tokens: Sequence[str]) -> list[str]:
    """The tokens as `key=value`. Raises ConfigError for a flag without its value."""
    overrides: list[str] = []
    rest = iter(tokens)
    for token in rest:
        if not token.startswith("-"):
            overrides.append(token)
            continue
        key, equals, value = token.lstrip("-").partition("=")
        if not equals:
            value = next(rest, None)
            if value is None:
                raise ConfigError(f"{token} is no option, and as a key of the recipe it needs a value")
        overrides.append(f"{key}={value}")
    return overrides


def print_recipe(recipe: Config, *, json: bool) -> None:
    """The whole recipe, with its defaults and changes, as YAML or JSON."""
    import yaml

    values = recipe.model_dump(mode="json")
    if json:
        print_json(values)
    else:
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
