"""A swarm by its name, as a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from weft.errors import WorkerError
from weft.swarm.folder import SwarmFolder
from weft.swarm.host import SwarmHost
from weft.swarm.load import base_folder


def open_swarm(name: str, **options: Any) -> SwarmHost:
    """The host that a running swarm is; `options` are those of `SwarmHost`.

    Raises UnknownNameError where there is no such swarm, WorkerError where it is down.
    """
    folder = SwarmFolder(name)
    plan, stages = folder.plan, folder.state.get("stages", [])
    if folder.supervisor is None:
        raise WorkerError(f"swarm {name} is down; start it: weft swarm up --base {plan.base} --name {name}")
    if not stages:
        raise WorkerError(f"swarm {name} is starting; try again when weft swarm status says that it is up")
    base = base_folder(plan.base)
    has = any((base / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    return SwarmHost(
        [folder.connect(stage) for stage in range(len(stages))],
        tokenizer=AutoTokenizer.from_pretrained(base) if has else None,
        name=plan.base,
        generation_config=_generation_config(base),
        log=folder.tell,
        **options,
    )


def _generation_config(base: Path) -> GenerationConfig | None:
    return GenerationConfig.from_pretrained(base) if (base / "generation_config.json").is_file() else None
