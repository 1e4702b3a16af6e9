"""A library of adapters, the tasks that they were trained for, and answers under any mixture of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from weft.adapters import load
from weft.embed import Cached, EncoderConfig, build_encoder
from weft.engine import Engine
from weft.errors import MissingFileError, ShapeError
from weft.evaluate.answer import answer_questions, ask
from weft.evaluate.metrics import exact_match, loss
from weft.files import resolve
from weft.host import Host, fitted
from weft.rows import AbstractHost
from weft.tasks import Row, Task
from weft.tasks.source import Source, load_split
from weft.types import Adapter, Bank, Description, Mixture


@dataclass(frozen=True, eq=False)
class Specialists:
    """Adapter k was trained for task k."""

    tasks: tuple[Task, ...]
    adapters: tuple[Adapter, ...]

    def __len__(self) -> int:
        """K, the number of adapters."""
        return len(self.adapters)

    def take(self, index: Sequence[int]) -> Specialists:
        """The library of these adapters alone, in this order."""
        return Specialists(tuple(self.tasks[k] for k in index), tuple(self.adapters[k] for k in index))

    def stack(self) -> Bank:
        """All adapters as a bank, by the names of their tasks."""
        return Bank.stack(self.adapters, [task.name for task in self.tasks])


def load_specialists(folder: str | os.PathLike[str], data: Source, host: AbstractHost) -> Specialists:
    """The adapters in a folder that are named as training tasks, in their order.

    Raises MissingFileError for a folder that is not there or holds no such adapter, and what loading an
    adapter and checking it against the host raise.
    """
    tasks = load_split(data, "train")
    adapters = load_by_task(folder, tasks, host)
    if not adapters:
        raise MissingFileError(f"{os.fspath(folder)} holds no adapter that is named as a task of train")
    return Specialists(tuple(t for t in tasks if t.name in adapters), tuple(adapters.values()))


def load_by_task(
    folder: str | os.PathLike[str], tasks: Sequence[Task], host: AbstractHost
) -> dict[str, Adapter]:
    """The adapters in a folder that are named as these tasks, by name and in their order.

    Raises MissingFileError for a folder that is not there, and what `load_for` raises.
    """
    found = resolve(folder)
    if found is None:
        raise MissingFileError(f"no folder of adapters at {os.fspath(folder)}")
    there = [task.name for task in tasks if (found / task.name / "adapter_config.json").is_file()]
    return {name: load_for(host, found / name) for name in there}


def load_for(host: AbstractHost, folder: str | os.PathLike[str]) -> Adapter:
    """An adapter that fits a host. Raises what loading it and `check_fits` raise."""
    return fitted(load(folder, base=host.fingerprint), host)


def open_encoder(config: EncoderConfig, host: Host, cache: str, tasks: Sequence[Task]) -> Cached:
    """An encoder with a memory that has read the descriptions of all tasks at once, so in few batches."""
    encoder = Cached(build_encoder(config, host=host), cache)
    encoder.encode([Description(text) for task in tasks for text in task.descriptions])
    return encoder


def score_rows(
    engine: Engine,
    rows: Sequence[Row],
    mixture: Mixture | None,
    *,
    descriptions: Sequence[str | None] | None = None,
    max_new_tokens: int = 16,
    batch_size: int = 256,
) -> Float[np.ndarray, "N 2"]:
    """Exact match and loss (nats per answer token) of every row, greedily decoded under a mixture.

    The mixture has one row for each of the rows, or one for all; so do the descriptions that go into the
    prompts, where they are given. Raises ShapeError for another number of descriptions.
    """
    texts = [None] * len(rows) if descriptions is None else list(descriptions)
    if len(texts) != len(rows):
        raise ShapeError(f"{len(texts)} descriptions for {len(rows)} rows; give one for each, or none")
    found = answer_questions(
        engine,
        [ask(engine.tokenizer, row, text) for row, text in zip(rows, texts, strict=True)],
        mixture,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    return np.array(
        [
            (exact_match(said.text, row.answers), loss(said.nll, said.tokens))
            for row, said in zip(rows, found, strict=True)
        ]
    ).reshape(len(rows), 2)
