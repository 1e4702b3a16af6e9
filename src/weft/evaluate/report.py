"""What an evaluation found, as values, text, Markdown and JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from weft.errors import ConfigError
from weft.evaluate.intervals import Interval
from weft.evaluate.metrics import METRICS
from weft.evaluate.tables import Cells, markdown_table, show_interval, text_table
from weft.files import replace_file, to_json

_METRIC_TITLES = {"exact_match": "exact match", "rouge_l": "ROUGE-L", "loss": "loss"}
_TESTED = ("exact_match", "loss")
"""Metrics whose differences are shown with a p."""
_SPLIT_TITLES = {"train": "seen tasks", "dev": "dev tasks", "heldout": "held-out tasks"}


@dataclass(frozen=True, slots=True)
class Result:
    """One condition on one split."""

    condition: str
    tasks: int
    rows: int
    """Different rows; one that several seeds draw counts once, with its mean."""
    metrics: Mapping[str, Interval]
    """Means over tasks of each task's mean over rows; empty when the condition is not available."""
    by_seed: Mapping[str, tuple[float, ...]]
    reason: str
    """Why it is not available, for all tasks or some."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition minus another, over the tasks that both have."""

    name: str
    first: str
    second: str
    tasks: int
    differences: Mapping[str, Interval]
    p: Mapping[str, float]
    """Two-sided, that the difference is 0."""
    ratio: Interval | None
    """Exact match of the first over the second; None where the second may be 0."""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """Everything about one split."""

    name: str
    tasks: int
    rows: int
    data_hash: str
    """Of the evaluated tasks."""
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    cosine: tuple[float, ...]
    """By seed: mean cosine between the adapters generated for different tasks; 1 means one for all."""
    by_task: Mapping[str, Mapping[str, float]]
    """Task -> condition -> exact match."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation, with what is needed to run it again."""

    splits: tuple[SplitReport, ...]
    seeds: tuple[int, ...]
    base: str
    fingerprint: str
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str
    notes: tuple[str, ...]


def to_text(report: Report) -> str:
    """The tables for a terminal; differences in exact match alone."""
    parts = []
    for split in report.splits:
        parts += [_heading(split), text_table(_result_cells(split))]
        parts += [text_table(_comparison_cells(split, METRICS[:1]))]
        parts += _remarks(split)
    parts += [f"note: {note}" for note in report.notes]
    parts.append(_about(report))
    return "\n\n".join(parts) + "\n"


def to_markdown(report: Report) -> str:
    """A page for `docs/results`."""
    parts = [f"# Evaluation of {report.base}", READING]
    parts += [part for split in report.splits for part in split_parts(split)]
    parts += [f"Note: {note}" for note in report.notes]
    parts += ["## How it was made", _about(report)]
    parts += [f"```sh\n{report.command}\n```"] if report.command else []
    recipe = yaml.safe_dump(dict(report.recipe), sort_keys=False, allow_unicode=True)
    parts.append(f"```yaml\n{recipe}```")
    return "\n\n".join(parts) + "\n"


def split_parts(split: SplitReport, *, level: int = 2) -> list[str]:
    """The paragraphs of a page about one split, under a heading of this level."""
    title = _heading(split)
    tables = (_result_cells(split), _comparison_cells(split, METRICS))
    return [f"{'#' * level} {title[0].upper()}{title[1:]}", *map(markdown_table, tables), *_remarks(split)]


def to_dict(report: Report) -> dict[str, Any]:
    """Plain values for JSON."""
    return asdict(report)


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the Markdown page at `path`, which ends in `.md`, and the same name with `.json` beside it.

    Raises ConfigError for another ending, SaveError when the disk refuses.
    """
    page = Path(path)
    if page.suffix != ".md":
        raise ConfigError(f"a report is a .md file, with a .json file beside it; got {page}")
    replace_file(page, to_markdown(report))
    replace_file(page.with_suffix(".json"), to_json(to_dict(report)))


READING = (
    "Means over tasks, with 95 % bootstrap intervals over tasks and rows. Loss is in nats per answer token; "
    "less is better. Every condition answers the same rows, by greedy decoding. The description is in the "
    "prompt where a name ends in `+description`; elsewhere all knowledge of the task is in the adapter."
)


def _heading(split: SplitReport) -> str:
    """What a split is, and how much of it was measured."""
    title = _SPLIT_TITLES.get(split.name, split.name.replace("_", " "))
    return f"{title}: {split.tasks} tasks, {split.rows} rows"


def _result_cells(split: SplitReport) -> Cells:
    """One line per condition."""
    cells = [["condition", *(_METRIC_TITLES[m] for m in METRICS), "tasks", "rows"]]
    for result in split.results:
        if result.metrics:
            shown = [show_interval(result.metrics[m]) for m in METRICS]
            cells.append([result.condition, *shown, str(result.tasks), str(result.rows)])
        else:
            cells.append([result.condition, "not available", *("" for _ in METRICS[1:]), "0", "0"])
    return cells


def _comparison_cells(split: SplitReport, metrics: Sequence[str]) -> Cells:
    """One line per difference."""
    tested = [m for m in metrics if m in _TESTED]
    several = len(metrics) > 1
    titles = [f"p ({_METRIC_TITLES[m]})" if several else "p" for m in tested]
    titles.append(f"ratio ({_METRIC_TITLES[METRICS[0]]})" if several else "ratio")
    cells = [["difference", *(_METRIC_TITLES[m] for m in metrics), *titles, "tasks"]]
    for row in split.comparisons:
        shown = [show_interval(row.differences[m], sign=True) for m in metrics]
        ratio = "" if row.ratio is None else show_interval(row.ratio)
        p = [f"{row.p[m]:.4f}" for m in tested]
        cells.append([row.name, *shown, *p, ratio, str(row.tasks)])
    return cells


def _remarks(split: SplitReport) -> list[str]:
    """What else a reader must know of a split; no or one paragraph."""
    lines = [f"- {r.condition}: {r.reason}." for r in split.results if r.reason]
    for result in split.results:
        if len(set(result.by_seed.get(METRICS[0], ()))) > 1:
            values = ", ".join(f"{value:.3f}" for value in result.by_seed[METRICS[0]])
            lines.append(f"- {result.condition}, exact match by seed: {values}.")
    if split.cosine:
        values = ", ".join(f"{value:.3f}" for value in split.cosine)
        lines.append(
            f"- Mean cosine of the adapters generated for different tasks, by seed: {values} (1 is collapse)."
        )
    lines += [f"- {note}." for note in split.notes]
    return ["\n".join(lines)] if lines else []


def _about(report: Report) -> str:
    seeds = ", ".join(map(str, report.seeds))
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    data = "; ".join(f"{split.name} {split.data_hash[:16]}" for split in report.splits)
    return f"Base {report.base} ({report.fingerprint}). Seeds {seeds}. Data {data}. Made with {versions}."
