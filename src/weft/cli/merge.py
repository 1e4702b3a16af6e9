"""`weft merge`: adapters in, one adapter out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from weft.cli.shared.flags import BaseMismatch, Flag, Json, OutputFolder
from weft.cli.shared.model import BASE, compare_with_base, load_adapters, open_host
from weft.cli.shared.screen import print_json, print_pairs, print_rows
from weft.errors import ConfigError, ShapeError
from weft.files import resolve

if TYPE_CHECKING:
    from weft.host import Host
    from weft.tasks import Encoded, Row, Task
    from weft.types import Adapter

_NOTICEABLE = 0.05
"""Share of right answers that a merge may lose before the report speaks of it."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MethodFlags:
    """What a method can be told; each takes some of these, and its own default where one is not given."""

    rank: int | None = None
    """Rank of the result; what that loses is told."""
    density: float | None = None
    """Methods that prune (ties, dare, della, ...): share of the entries they keep, above 0, at most 1."""
    trim: Literal["adapter", "tensor"] | None = None
    """ties, knots: over what the largest entries are chosen."""
    scaling: float | None = None
    """ties, dare_ties, della, knots, task_arithmetic: factor of the result (lambda)."""
    epsilon: float | None = None
    """della: how far from density the probability to keep may be."""
    gamma: float | None = None
    """breadcrumbs: share of the largest entries that goes."""
    off_diagonal: float | None = None
    """regmean: factor of what lies off the diagonals of the Gram matrices (alpha)."""
    ridge: float | None = None
    """regmean: added to the diagonals, as a share of their mean."""
    seed: int | None = None
    """dare_linear, dare_ties, della: seed of the draws."""


def merge(
    method: str,
    /,
    *adapters: str,
    output_dir: OutputFolder,
    weights: Annotated[tuple[float, ...], Parameter(alias="-w", consume_multiple=True)] = (),
    options: MethodFlags = MethodFlags(),
    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    max_rows: Annotated[int, Parameter(validator=Number(gte=1))] = 32,
    base: str | None = None,
    base_mismatch: BaseMismatch = "refuse",
    report: Flag = False,
    json: Json = False,
) -> None:
    """Merge adapters of one base into one, and save it as a PEFT folder.

    Methods: concat, svd, linear, peft_linear, task_arithmetic, ties,
    dare_linear, dare_ties, della, breadcrumbs, magnitude_prune, knots, fisher,
    regmean, slerp. For example:

        weft merge ties A B -w 0.6 0.4 --density 0.2 -o out/
        weft merge fisher A B --data tasks/a tasks/b --report -o out/

    Args:
        method: How to merge.
        adapters: Adapter folders.
        output_dir: Folder to write; an adapter that is there is replaced, anything else is refused.
        weights: One for each adapter; equal ones that add up to 1 unless given.
        options: What the method can be told.
        data: The task of each adapter, in their order: a task folder, or the name of a task of the letters
            world. fisher and regmean learn from its train rows, --report measures on its test rows.
        max_rows: How many rows of a task are used.
        base: Base that --data is read with; what the adapters name unless given.
        base_mismatch: What to do with adapters of different bases: refuse them, or take all for ones of
            the first one's base, with a warning or in silence.
        report: Measure each adapter's task on the base, under the adapter, and under the merge.
    """
    # Imported here, as in every verb: torch takes seconds, and help and wrong usage should not.
    from weft.adapters import on_one_base, save
    from weft.merging import gather, options_of
    from weft.merging import merge as merge_adapters

    method = method.replace("-", "_")
    known = options_of(method)
    given = {key: value for key, value in vars(options).items() if value is not None}
    needs_data = {"fisher", "gram"} & known.keys()
    if (needs_data or report) and len(data) != len(adapters):
        why = method if needs_data else "--report"
        raise ConfigError(
            f"{why} needs a task for each of {len(adapters)} adapters, --data names {len(data)}"
        )
    if output_dir.resolve() in [Path(folder).resolve() for folder in adapters]:
        raise ConfigError(f"{output_dir} is one of the adapters to merge; choose another folder")
    sources = on_one_base(load_adapters(adapters, [])[0], base_mismatch)
    gather(sources, weights or None)  # before a large base is read
    compare_with_base(adapters, sources, base)
    host, tasks = None, []
    if needs_data or report:
        tasks = [_task(name) for name in data]
        from weft.engine.request import named_base

        host = open_host(base or named_base(sources) or BASE, adapters=sources)
    if host is not None and needs_data:
        from weft.evaluate.statistics import statistics

        given |= statistics(method, host, sources, tasks, max_rows)
    merged = merge_adapters(method, sources, weights=weights or None, **given)
    merged = replace(merged, name=output_dir.resolve().name)
    save(merged, output_dir)
    facts, rows = _tell(merged, sources, output_dir)
    measured = [] if host is None or not report else _measure(host, merged, sources, tasks, max_rows)
    if json:
        print_json(facts | {"sources": rows} | ({"report": measured} if measured else {}))
        return
    print_pairs(facts)
    print()
    print_rows([{k: v for k, v in row.items() if k != "cosines"} | row["cosines"] for row in rows])
    if measured:
        print()
        print_rows(measured)


def _tell(
    merged: Adapter, sources: Sequence[Adapter], path: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Facts of the result, and a row for each source."""
    from weft.adapters import cosine, norm
    from weft.adapters.card import base_model

    facts = {
        "path": str(path),
        "method": merged.provenance["method"],
        "base": merged.base or base_model(merged) or "not named",
        "sites": len(merged.sites),
        "rank": merged.rank,
        "norm": norm(merged),
        "truncation error": merged.provenance["truncation_error"]["total"],
    }
    labels = _labels(sources)
    rows = [
        {
            "source": labels[k],
            "weight": merged.provenance["weights"][k],
            "rank": source.rank,
            "norm": norm(source),
            "cosine to merge": cosine(source, merged),
            "cosines": {label: cosine(source, o) for label, o in zip(labels, sources, strict=True)},
        }
        for k, source in enumerate(sources)
    ]
    return facts, rows


def _labels(sources: Sequence[Adapter]) -> list[str]:
    """Their names; a number after those that occur more than once, and after the names of other columns."""
    names = [source.name for source in sources]
    taken = {"source", "weight", "rank", "norm", "cosine to merge", "cosines"}
    return [
        f"{name} #{k + 1}" if names.count(name) > 1 or name in taken else name for k, name in enumerate(names)
    ]


def _task(name: str) -> Task:
    from weft.tasks import load_task
    from weft.tasks.letters.world import World

    folder = resolve(name)
    return World().find(name) if folder is None else load_task(folder)


def _encoded(host: Host, task: Task, rows: Sequence[Row]) -> list[Encoded]:
    from weft.tasks import render

    if not rows:
        raise ShapeError(f"task {task.name} has no rows of the part that is needed")
    return [render(host.tokenizer, row, max_length=host.window) for row in rows]


def _measure(
    host: Host, merged: Adapter, sources: Sequence[Adapter], tasks: Sequence[Task], max_rows: int
) -> list[dict[str, Any]]:
    """Loss and exact match on each source's task: of the base, the source, and the merge."""
    from weft.engine import Engine
    from weft.evaluate.specialists import score_rows
    from weft.types import Bank, Mixture

    engine = Engine(host)
    bank = Bank.stack([*sources, merged], names=[str(k) for k in range(len(sources) + 1)])
    measured, worse = [], []
    for k, (label, task) in enumerate(zip(_labels(sources), tasks, strict=True)):
        rows = task.test[:max_rows]
        encoded = _encoded(host, task, rows)  # raises for rows that are not there or do not fit
        longest = max(len(row.completion_ids) for row in encoded)
        line: dict[str, Any] = {"source": label, "task": task.name, "rows": len(rows)}
        for who, index in (("base", None), ("source", k), ("merge", len(sources))):
            mixture = Mixture.rows(bank, [index] * len(rows))
            scores_NX = score_rows(engine, rows, mixture, max_new_tokens=longest, batch_size=max_rows)
            line[f"{who}, right"], line[f"{who}, loss"] = map(float, scores_NX.mean(0))
        line["interference"] = line["merge, loss"] - line["source, loss"]
        if line["merge, right"] < line["source, right"] - _NOTICEABLE:
            worse.append(label)
        measured.append(line)
    if worse:
        warnings.warn(
            f"the merge answers worse than {', '.join(worse)} on their own tasks; "
            "routing each request to its adapter would keep what they know",
            stacklevel=2,
        )
    return measured
