"""Calls into Weft are checked while the tests run: their types, and shapes where they are told.

beartype checks both, jaxtyping knows the shapes. A function that another makes is checked the first times
that it is made in a process. WEFT_UNCHECKED leaves all of it out.
"""

import ast
import functools
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_args, get_type_hints

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

_checked = beartype(conf=BeartypeConf(violation_type=TypeCheckError))
_INNER = 8
"""How many makings of a function within another are checked: each making costs a check of its own."""
_made: Counter[CodeType] = Counter()


def check(function: Any) -> Any:
    """The function, its arguments and what it returns checked; a letter of shapes is one size in a call."""
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
    if not any(map(_tells_shapes, copy.__annotations__.values())):
        return functools.update_wrapper(_checked(copy), function)
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        return functools.update_wrapper(jaxtyped(copy, typechecker=_checked), function)
    checked = _checked(copy)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            return checked(*args, **kwargs)

    return call


def unchecked(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function or a bound method as a user without these checks does."""
    if inspect.ismethod(call):
        return inspect.unwrap(call.__func__)(call.__self__, *args, **kwargs)
    return inspect.unwrap(call)(*args, **kwargs)


def check_inner(function: Any) -> Any:
    """A function that another one makes, checked the first times."""
    _made[function.__code__] += 1
    return check(function) if _made[function.__code__] <= _INNER else function


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


def _tells_shapes(hint: Any) -> bool:
    shaped = isinstance(hint, type) and issubclass(hint, AbstractArray)
    return shaped or any(map(_tells_shapes, get_args(hint)))


class Decorate(ast.NodeTransformer):
    """Every function, and the __init__ that a dataclass is given, is checked."""

    def __init__(self) -> None:
        self.within = 0
        """How many functions stand around a node."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.within += 1
        self.generic_visit(node)
        self.within -= 1
        # The innermost: other decorators may hide the annotations.
        node.decorator_list.append(_call("check_inner" if self.within else "check"))
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
    return re.sub(r"\.pyc$", ".checked-2.pyc", path)


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
    sys.meta_path.insert(0, Finder)
