"""Recipes: strict YAML into frozen pydantic models, with dotted overrides."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from weft.errors import ConfigError
from weft.files import nearest
from weft.plain import plain
from weft.reading import check_text, parse_yaml, read_yaml, shown, shown_path

_MOST = 3
"""Wrong keys that one message names."""
_LARGEST = 1 << 53
"""Whole numbers of a recipe stay below this, so that JSON and every number type hold them."""

Size = Annotated[int, Field(gt=0, le=1 << 20)]
"""How many of something a step or a file holds, or how wide it is."""
Rank = Annotated[int, Field(gt=0, le=8192)]
"""The rank of an adapter."""
Steps = Annotated[int, Field(gt=0, le=10**9)]
"""How many steps."""


class Config(BaseModel):
    """Base of every recipe section: frozen, finite, and a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _holds_what_can_be_written(self) -> "Config":
        for name in type(self).model_fields:
            for value in _leaves(getattr(self, name)):
                if isinstance(value, int) and abs(value) > _LARGEST:
                    raise ValueError(f"{name} is {shown(value)}, at most 2**53 is read")
                if isinstance(value, str):
                    check_text(value, name)
        return self


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a recipe; `overrides` are `section.key=value` with YAML values, and win over the file.

    Raises MissingFileError, or ConfigError naming the key, with the nearest known one.
    """
    values = read_yaml(path)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(
            f"{shown_path(path)} should hold keys and values, it holds a {type(values).__name__}"
        )
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"an override reads key=value, got {shown(override)}")
        _put(values, key.replace("-", "_").split("."), parse_yaml(text, f"the value of {shown(key)}"))
    return parse_config(kind, values, shown_path(path))


def parse_config(kind: type[C], values: dict[str, Any], source: str) -> C:
    """Check values against a section; `source` names their origin in errors. Raises ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        told = [_explain(kind, e, source) for e in found[:_MOST]]
        more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
        raise ConfigError("; ".join([*told, *more])) from error
    except RecursionError as error:
        raise ConfigError(f"{source} is nested too deep, or holds itself") from error


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{shown(key)} is a plain value, it has no keys below it")
    values[keys[-1]] = value


def _explain(kind: type[Config], error: Any, source: str) -> str:
    where = plain(".".join(str(part)[:60] for part in error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown key {where}{nearest(str(error['loc'][-1]), _keys(kind))}"
    said = plain(error["msg"])
    said = said if len(said) <= 200 else f"{said[:197]}..."
    return f"{source}: {where}: {said}, got {shown(error['input'])}"


def _keys(kind: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, info in kind.model_fields.items():
        keys.add(name)
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys |= _keys(part)
    return keys


def _leaves(value: Any) -> Iterator[Any]:
    """The plain values of a field; those of a section were looked at when it was made."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif not isinstance(value, BaseModel):
        yield value
