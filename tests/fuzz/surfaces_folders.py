"""Folders of adapters, hypernetworks, routers and trees, each kind a surface of its own."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from damaged_folders import KINDS, damage, make_folders, reader
from fuzzer import SURFACES


@cache
def _sound() -> tuple[Path, Any, Any]:
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root, *make_folders(root)


def _register(kind: str) -> None:
    def make(rng: random.Random, folder: Path) -> Callable[[], object]:
        root, host, bank = _sound()
        shutil.copytree(root / kind, folder / kind)
        damage(folder / kind, rng)
        read = reader(kind, host, bank)
        return lambda: read(folder / kind)

    SURFACES[kind] = make


for kind in KINDS:
    _register(kind)
