"""Calls into Weft are checked while the tests run: their types everywhere, and shapes where they are told.

jaxtyping checks the modules that speak of shapes. The others are decorated here, with beartype alone, which
costs a tenth of that. WEFT_UNCHECKED leaves all of it out.
"""

import ast
import functools
import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_type_hints

from beartype import beartype
from jaxtyping import install_import_hook


def with_shapes() -> list[str]:
    """The modules whose annotations tell of shapes."""
    (root,) = find_spec("weft").submodule_search_locations
    tells = re.compile(r"^from jaxtyping import", re.M)
    files = [file for file in Path(root).rglob("*.py") if tells.search(file.read_text(encoding="utf-8"))]
    return [".".join(file.relative_to(Path(root).parent).with_suffix("").parts) for file in files]


def check(function: Any) -> Any:
    """The function, its arguments and what it returns checked by beartype; as jaxtyping does it."""
    if not isinstance(function, FunctionType):
        return function
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
    hints = function.__annotations__
    copy.__annotations__ = {name: _resolved(hint, function.__globals__) for name, hint in hints.items()}
    return functools.update_wrapper(beartype(copy), function)


def check_dataclass(made: type) -> type:
    """The dataclass, the arguments of its __init__ checked."""
    made.__init__ = check(made.__init__)
    return made


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The type that an annotation names; anything where it is known to type checkers alone."""

    def probe(value: Any) -> None: ...

    probe.__annotations__ = {"value": hint}
    try:
        return get_type_hints(probe, names, include_extras=True)["value"]
    except Exception:  # names are resolved by running what stands there
        return Any


class Decorate(ast.NodeTransformer):
    """Every function, and the __init__ that a dataclass is given, is checked by beartype."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.decorator_list.append(_call("check"))  # the innermost: other decorators may hide the annotations
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            node.decorator_list.insert(0, _call("check_dataclass"))
        return node


def _call(name: str) -> ast.expr:
    return ast.parse(f"__import__('checked').{name}", mode="eval").body


class Loader(SourceFileLoader):
    """Loads a module with its checks, and keeps its code beside the code without them."""

    def source_to_code(self, data: bytes, path: str, *, _optimize: int = -1) -> CodeType:
        tree = ast.fix_missing_locations(Decorate().visit(ast.parse(data, path)))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        return super().get_data(_kept(path))

    def set_data(self, path: str, data: bytes, **options: int) -> None:
        super().set_data(_kept(path), data, **options)


def _kept(path: str) -> str:
    return re.sub(r"\.pyc$", ".checked.pyc", path)


class Finder:
    """Finds the modules of Weft, to load them with their checks."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target) if name.split(".")[0] == "weft" else None
        if found is not None and type(found.loader) is SourceFileLoader:
            found.loader = Loader(found.loader.name, found.loader.path)
        return found


if "WEFT_UNCHECKED" not in os.environ:
    shaped = with_shapes()
    sys.meta_path.insert(0, Finder)
    install_import_hook(shaped, "beartype.beartype")  # asked first
