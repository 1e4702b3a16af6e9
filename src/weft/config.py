"""Recipes: strict YAML into frozen pydantic models, with dotted overrides."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from weft.errors import ConfigError
from weft.files import is_name, nearest
from weft.plain import plain
from weft.reading import check_text, parse_yaml, read_yaml, shown, shown_path

_UNION = re.compile(r"str|int|float|constrained-\w+|\w+\[.*\]")
"""How pydantic names the part of a union that did not fit, behind the key."""
_MOST = 3
"""Wrong keys that one message names."""
_ELSEWHERE = {
    "alpha": "lora_alpha",
    "base_model": "base",
    "batch_size": "rows_per_task",
    "beta2": "adam_beta2",
    "dataset": "data",
    "dropout": "lora_dropout",
    "epochs": "num_train_epochs",
    "lora_r": "r",
    "lora_rank": "r",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "model": "base",
    "model_name": "base",
    "model_name_or_path": "base",
    "modules": "target_modules",
    "per_device_train_batch_size": "rows_per_task",
    "rank": "r",
    "scheduler": "lr_scheduler_type",
    "steps": "max_steps",
    "torch_dtype": "dtype",
    "train_file": "data",
}
"""What other projects, and people in a hurry, call a key."""
_LARGEST = 1 << 53
"""Whole numbers of a recipe stay below this, so that JSON and every number type hold them."""


def _all_different(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"the same one twice measures nothing new; got {list(values)}")
    return values


def _named(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"a folder is called so: letters, digits, . _ - + only; got {name!r}")
    return name


Size = Annotated[int, Field(gt=0, le=1 << 20)]
"""How many of something a step or a file holds, or how wide it is."""
Rank = Annotated[int, Field(gt=0, le=8192)]
"""The rank of an adapter."""
Seeds = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_all_different)]
"""What is trained is trained once with each."""
Name = Annotated[str, AfterValidator(_named)]
"""What a folder is called after."""
Steps = Annotated[int, Field(gt=0, le=10**9)]
"""How many steps."""


class Config(BaseModel):
    """Base of every recipe section: frozen, finite, and a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

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
        places: dict[str, list[Any]] = {}  # a value that may be of several kinds is wrong in several ways
        for one in found:
            places.setdefault(_place(one), []).append(one)
        lines = [_explain(kind, one, source) for ways in list(places.values())[:_MOST] for one in ways]
        more = [f"and {len(places) - _MOST} more"] if len(places) > _MOST else []
        raise ConfigError("; ".join([*lines, *more])) from error
    except RecursionError as error:
        raise ConfigError(f"{source} is nested too deep, or holds itself") from error


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{shown(key)} is a plain value, it has no keys below it")
    values[keys[-1]] = value


def _explain(kind: type[Config], error: Any, source: str) -> str:
    where = _place(error)
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown key {where or shown('')}{_meant(kind, error['loc'])}"
    if error["type"] == "union_tag_invalid":
        known = [name.strip("'") for name in error["ctx"]["expected_tags"].split(", ")]
        tag = error["ctx"]["tag"]
        there = ", ".join(known)
        return f"{source}: {where}.kind: {shown(tag)} is unknown{nearest(tag, known)}; there are {there}"
    said = plain(error["msg"]).removeprefix("Value error, ")
    said = said if len(said) <= 200 else f"{said[:197]}..."
    if error["type"] == "value_error":  # of our own, which says the value where one helps
        return f"{source}: {where}: {said}" if where else f"{source}: {said}"
    return f"{source}: {where}: {said}, got {shown(error['input'])}"


def _place(error: Any) -> str:
    """The key that an error speaks of, from the top."""
    is_key = error["type"] == "extra_forbidden"
    parts = [str(part)[:60] for part in error["loc"] if is_key or not _UNION.fullmatch(str(part)[:60])]
    return plain(".".join(parts))


def _meant(kind: type[BaseModel], loc: Sequence[int | str]) -> str:
    """` (did you mean section.key?)`: a key of another section, what others call one, or a like one."""
    keys: dict[str, str] = {}
    for key, path in _keys(kind):
        keys.setdefault(key, path)
    name = str(loc[-1])
    here = ".".join(str(part) for part in loc if part in keys)  # without the kinds of sections
    for meant in (name, _ELSEWHERE.get(name)):
        if meant in keys and keys[meant] != here:
            return f" (did you mean {keys[meant]}?)"
    # One letter is like any short word, and a key of another kind of this section is known here already.
    like = difflib.get_close_matches(name[:100], [key for key in keys if len(key) > 1 and key != name], n=1)
    return f" (did you mean {keys[like[0]]}?)" if like else ""


def _keys(kind: type[BaseModel], before: str = "") -> Iterator[tuple[str, str]]:
    """Every key that a recipe may have, and its path from the top; sections last."""
    sections = []
    for name, info in kind.model_fields.items():
        yield name, before + name
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                sections.append((part, f"{before}{name}."))
    for part, inside in sections:
        yield from _keys(part, inside)


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
