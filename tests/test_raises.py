"""A public function that raises an error of Weft's says so in its docstring."""

import ast
from collections.abc import Iterator
from pathlib import Path

import weft.errors

SOURCE = Path(weft.errors.__file__).parent
ERRORS = {name for name, value in vars(weft.errors).items() if isinstance(value, type)}


def public(node: ast.AST, owner: ast.ClassDef | None = None) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Public functions and methods with their docstrings; that of a class speaks for its `__init__`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child, child)
        elif isinstance(child, ast.FunctionDef):
            if child.name in ("__init__", "__post_init__", "__enter__"):
                yield child, " ".join(ast.get_docstring(n) or "" for n in (child, owner) if n)
            elif not child.name.startswith("_"):
                yield child, ast.get_docstring(child) or ""


def raised(function: ast.FunctionDef) -> set[str]:
    """The errors of Weft's that a function raises by name, itself."""
    calls = (node.exc for node in ast.walk(function) if isinstance(node, ast.Raise))
    names = (call.func if isinstance(call, ast.Call) else call for call in calls)
    return {name.id for name in names if isinstance(name, ast.Name)} & ERRORS


def silent(source: str) -> list[str]:
    """`line function: error` for every error that a public function raises and does not tell."""
    return [
        f"{function.lineno} {function.name}: {error}"
        for function, told in public(ast.parse(source))
        for error in sorted(raised(function))
        if error not in told
    ]


# The docstring of a verb is its --help, which does not speak of errors in Python.
FILES = [file for file in SOURCE.rglob("*.py") if file.relative_to(SOURCE).parts[0] != "cli"]


def test_every_public_function_tells_what_it_raises() -> None:
    found = [f"{p.relative_to(SOURCE)}:{line}" for p in FILES for line in silent(p.read_text())]
    assert found == []


def test_silence_is_heard() -> None:
    source = '''
def f():
    """Say nothing."""
    raise ConfigError("x")

class C:
    """Raises ShapeError."""
    def __init__(self):
        raise ShapeError("x")
    def g(self):
        """Raises ConfigError."""
        raise ShapeError("x")
    def _h(self):
        raise ShapeError("x")
'''
    assert silent(source) == ["2 f: ConfigError", "10 g: ShapeError"]
