"""The planted world as folders: a base, tasks with train rows, and a library of their adapters."""

from dataclasses import replace
from pathlib import Path

from weft.adapters import save
from weft.tasks import Row, save_task


def write_library(planted, root: Path) -> Path:
    planted.host.module.save_pretrained(root / "base")
    planted.host.tokenizer.save_pretrained(root / "base")
    for k, task in enumerate(planted.tasks):
        train = tuple(Row(text, task.test[0].completion) for text in ("me", "pop", "tu"))
        save_task(replace(task, train=train), root / "tasks" / task.name)
        save(replace(planted.bank[k], name=task.name), root / "library" / task.name)
    return root


def common(root: Path) -> dict:
    """What recipes of experiments on this library have in common."""
    return {
        "base": str(root / "base"),
        "library": str(root / "library"),
        "data": {"kind": "folder", "path": str(root / "tasks")},
        "encoder_cache": str(root / "cache"),
        "max_new_tokens": 5,
    }


ENCODER = {"kind": "host_states", "template": "system"}
