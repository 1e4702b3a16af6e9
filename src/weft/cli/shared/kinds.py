"""What a folder holds, told by its files and without reading weights."""

from pathlib import Path
from typing import Literal

from weft.checks import CONFIG
from weft.files import folders_with, read_json

Kind = Literal[
    "adapter", "hypernetwork", "tree", "router", "shift", "context", "mix", "base", "run", "task", "folder"
]


def kind_of(folder: Path) -> Kind:
    """The kind of a folder; `folder` for anything else."""
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "task.yaml").is_file():
        return "task"
    if (folder / "metrics.jsonl").is_file():
        return "run"
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if isinstance(config, dict):
        if "model_type" in config:
            return "base"
        if config.get("kind") in ("tree", "shift", "context", "mix"):
            return config["kind"]
        if "names" in config and "options" in config:
            return "router"
        if "encoder" in config and "network" in config:
            return "hypernetwork"
    return "folder"


def adapters_in(folder: Path) -> list[Path]:
    """The adapter folders right inside a folder, by name."""
    return folders_with(folder, CONFIG)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
