"""What merges learn from data: Fisher diagonals and Gram matrices of adapters on rows of their tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.errors import ShapeError
from weft.host import Host
from weft.host.fisher import fisher_diagonal
from weft.host.gram import input_gram
from weft.merging import options_of
from weft.tasks import Task, collate, render
from weft.tasks.batch import pad_id
from weft.types import Adapter, Mixture, Site

STATISTICS = {"fisher": fisher_diagonal, "gram": input_gram}
"""By the option of a merge that takes them."""


def statistics(
    method: str, host: Host, adapters: Sequence[Adapter], tasks: Sequence[Task], rows: int
) -> dict[str, list[Mapping[Site, Any]]]:
    """The options of a method that are learned from data, for every adapter on train rows of its task.

    Empty for a method that needs none. Raises what `learn` raises.
    """
    sites = sorted({site for adapter in adapters for site in adapter.factors})
    pairs = list(zip(adapters, tasks, strict=True))
    return {
        kind: [learn(kind, host, adapter, task, rows, sites) for adapter, task in pairs]
        for kind in STATISTICS.keys() & options_of(method).keys()
    }


def learn(
    kind: str, host: Host, adapter: Adapter, task: Task, rows: int, sites: Sequence[Site]
) -> Mapping[Site, Any]:
    """What a merge wants to know of an adapter on train rows of its task: `fisher` or `gram`, by site.

    Raises ShapeError for a task without train rows.
    """
    encoded = [render(host.tokenizer, row, max_length=host.window) for row in task.train[:rows]]
    if not encoded:
        raise ShapeError(f"task {task.name} has no rows of the part that is needed")
    batch = collate(encoded, pad_id=pad_id(host))
    return STATISTICS[kind](host, Mixture.of(adapter), [batch], sites=sites)
