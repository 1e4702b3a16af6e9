"""Write docs/recipes.md, every key of every recipe, from the schemas: `python docs/make_recipes.py`."""

import types
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from weft.cli.experiment import _SCHEMAS as QUESTIONS
from weft.cli.train import Kind, trainer_of
from weft.config import Config
from weft.evaluate import EvalRecipe
from weft.files import replace_file


def _asked(kind: str) -> type[Config]:
    """The recipe of an experiment."""
    return getattr(import_module(f"weft.experiments.{kind.replace('-', '_')}.recipe"), QUESTIONS[kind])


PAGE = Path(__file__).parent / "recipes.md"
RECIPES: dict[str, type[Config]] = {
    **{f"weft train {kind}": trainer_of(kind)[0] for kind in get_args(Kind)},
    "weft eval": EvalRecipe,
    **{f"weft experiment {kind}": _asked(kind) for kind in QUESTIONS},
}
_LARGE = 1e6
"""Upper bounds from here on only keep nonsense out."""
_INTRODUCTION = """# Every key of a recipe

A recipe is a YAML file. Every key can be given on the command line too, `--optimizer.learning-rate 1e-4` or
`optimizer.learning_rate=1e-4`, and wins over the file there. `--dry-run` prints the whole recipe, with every
default. A key that is not known is an error. Written by `make docs`.
"""


def build_page() -> str:
    """The text of the page."""
    sections: dict[str, type[Config]] = {}
    for recipe in RECIPES.values():
        for section in _sections(recipe):
            sections.setdefault(section.__name__, section)
    parts = [_INTRODUCTION]
    parts += [_chapter(f"`{verb}`", recipe) for verb, recipe in RECIPES.items()]
    parts.append("# Sections\n")
    parts += [_chapter(name, section) for name, section in sorted(sections.items())]
    return "\n".join(parts)


def missing() -> list[str]:
    """Keys without a meaning."""
    kinds = {kind for recipe in RECIPES.values() for kind in (recipe, *_sections(recipe))}
    return sorted(
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, info in kind.model_fields.items()
        if not info.description and name != "kind" and not _inside(info.annotation)
    )


def _chapter(title: str, kind: type[Config]) -> str:
    rows = [_row(name, info) for name, info in kind.model_fields.items()]
    table = ["| key | value | unless given | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {title}\n", f"{_about(kind)}\n", *table, ""])


def _about(kind: type[Config]) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _row(name: str, info: FieldInfo) -> str:
    inside = [kind.__name__ for kind in dict.fromkeys(_inside(info.annotation))]
    value = ", ".join(f"[{kind}](#{kind.lower()})" for kind in inside)
    if not inside:
        bounds = [part for part in map(_bound, info.metadata) if part]
        value = " ".join([f"`{_typed(info.annotation)}`", *bounds])
    default = "" if inside else f"`{_shown(info.get_default(call_default_factory=True))}`"
    default = "**needed**" if info.is_required() else default
    meaning = info.description or "; ".join(_about(kind) for kind in dict.fromkeys(_inside(info.annotation)))
    cells = [
        f"`{name}`",
        value,
        default,
        " ".join(meaning.split()) if len(inside) < 2 else "One of these kinds.",
    ]
    return " ".join(["|", " | ".join(cell.replace("|", "\\|") for cell in cells), "|"])


def _sections(kind: type[Config]) -> Iterator[type[Config]]:
    for info in kind.model_fields.values():
        for section in _inside(info.annotation):
            yield section
            yield from _sections(section)


def _inside(annotation: Any) -> list[type[Config]]:
    """The sections that a key may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [section for part in get_args(annotation) for section in _inside(part)]


def _typed(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _typed(args[0])
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " | ".join(_typed(part) for part in args if part is not type(None))
    if origin in (list, tuple):
        return f"list of {_typed(args[0])}"
    if origin is dict:
        return f"{_typed(args[0])}: {_typed(args[1])}"
    return getattr(annotation, "__name__", str(annotation))


def _bound(constraint: Any) -> str:
    signs = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    limits = {name: getattr(constraint, name) for name in signs if hasattr(constraint, name)}
    return " ".join(f"{signs[name]} {limit:g}" for name, limit in limits.items() if limit < _LARGE)


def _shown(default: Any) -> str:
    if default is None:
        return "-"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return f"[{', '.join(map(str, default))}]"
    return str(default)


if __name__ == "__main__":
    replace_file(PAGE, build_page())
