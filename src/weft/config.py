"""Recipes: strict YAML into frozen pydantic models, with dotted overrides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from weft.errors import ConfigError, MissingFileError
from weft.files import nearest


class Config(BaseModel):
    """Base of every recipe section: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a recipe; `overrides` are `section.key=value` with YAML values, and win over the file.

    Raises MissingFileError, or ConfigError naming the key, with the nearest known one.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no recipe at {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} should hold keys and values, it holds a {type(values).__name__}")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"an override reads key=value, got {override!r}")
        _put(values, key.replace("-", "_").split("."), yaml.safe_load(text))
    return parse_config(kind, values, str(path))


def parse_config(kind: type[C], values: dict[str, Any], source: str) -> C:
    """Check values against a section; `source` names their origin in errors. Raises ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(kind, e, source) for e in error.errors())) from error


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key} is a plain value, it has no keys below it")
    values[keys[-1]] = value


def _explain(kind: type[Config], error: Any, source: str) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown key {where}{nearest(where.split('.')[-1], _keys(kind))}"
    return f"{source}: {where}: {error['msg']}, got {error['input']!r}"


def _keys(kind: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, info in kind.model_fields.items():
        keys.add(name)
        for part in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys |= _keys(part)
    return keys
