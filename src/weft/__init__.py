"""Weft: low-rank adapters that programs make, choose, mix and change while a model runs."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from weft.adapters import load, save
    from weft.engine import Engine, Sampling
    from weft.errors import WeftError
    from weft.host import Host, sites_of
    from weft.hyper import HyperNetwork
    from weft.merging import merge
    from weft.types import (
        Adapter,
        Bank,
        Description,
        Examples,
        Mixture,
        Site,
        Term,
    )

# Loaded on first use, so that `import weft` stays instant: module -> the names that it defines.
_PUBLIC = {
    "weft.adapters": ("load", "save"),
    "weft.engine": ("Engine", "Sampling"),
    "weft.errors": ("WeftError",),
    "weft.host": ("Host", "sites_of"),
    "weft.hyper": ("HyperNetwork",),
    "weft.merging": ("merge",),
    "weft.types": (
        "Adapter",
        "Bank",
        "Description",
        "Examples",
        "Mixture",
        "Site",
        "Term",
    ),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "Adapter",
    "Bank",
    "Description",
    "Engine",
    "Examples",
    "Host",
    "HyperNetwork",
    "Mixture",
    "Sampling",
    "Site",
    "Term",
    "WeftError",
    "load",
    "merge",
    "save",
    "sites_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
