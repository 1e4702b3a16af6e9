"""The examples in docstrings run; the names that people import have one, and say what they take."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import weft

NAMES = {
    "weft": tuple(weft.__all__),
    "weft.adapters": ("concat", "cosine", "fold", "norm", "truncate"),
    "weft.embed": ("build_encoder",),
    "weft.evaluate": ("bootstrap", "exact_match"),
    "weft.route": (
        "Blend",
        "Classifier",
        "Nearest",
        "Smear",
        "TreeGate",
        "XLora",
        "load_library",
        "load_router",
        "load_tree",
        "save_tree",
    ),
    "weft.tasks": ("Row", "Task", "load_tasks", "read_rows", "render_prompt", "save_task", "write_rows"),
    "weft.train": ("train_lora",),
}


def examples() -> Iterator[doctest.DocTest]:
    """Every docstring of Weft that has an example."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(weft.__path__, "weft."):
        if ">>>" in Path(importlib.util.find_spec(module.name).origin).read_text(encoding="utf-8"):
            yield from finder.find(
                importlib.import_module(module.name), extraglobs={"torch": torch, "weft": weft}
            )


FOUND = {example.name: example for example in examples() if example.examples}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_an_example_does_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(FOUND[name], out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module]])
def test_what_people_import_says_what_it_takes_and_has_an_example(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    assert f"{thing.__module__}.{name}" in FOUND
    rest = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    asked = {} if thing is weft.WeftError else inspect.signature(thing).parameters
    taken = [one.name for one in asked.values() if one.kind not in rest]
    lines = inspect.getdoc(thing).splitlines()
    assert [name for name in taken if not any(line.startswith(f"    {name}: ") for line in lines)] == []
    assert "Args:" in lines or not taken
