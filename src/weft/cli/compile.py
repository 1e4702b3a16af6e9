"""`weft compile`: a function from a sentence, and from examples where there are some."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from weft.cli.shared.flags import BaseMismatch, Json, OutputFolder, Paraphrases, Threads, set_threads
from weft.cli.shared.model import (
    Dtype,
    adapt_words,
    base_of,
    hypernetwork_for,
    open_host,
    open_hypernetwork,
    usual_base,
)
from weft.cli.shared.screen import print_json, print_pairs, print_rows
from weft.errors import ConfigError
from weft.plain import plain

if TYPE_CHECKING:
    from weft.host import Host
    from weft.tasks import Row, Task
    from weft.train.refine import Refined
    from weft.types import Adapter

_HELD_OUT = 0.2
_MEASURED = 64
"""Most held-out rows that are answered for the report."""

Above0 = Annotated[int, Parameter(validator=Number(gte=1))]


def compile_function(
    description: str,
    /,
    *,
    output_dir: OutputFolder,
    examples: str | None = None,
    base: str | None = None,
    hypernetwork: Annotated[str | None, Parameter(name="--with")] = None,
    paraphrases: Paraphrases = 1,
    max_steps: Annotated[int, Parameter(validator=Number(gte=0))] = 100,
    learning_rate: Annotated[float, Parameter(validator=Number(gt=0, lte=1000))] = 1e-3,
    rows_per_step: Above0 = 8,
    r: Above0 = 8,
    seed: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    name: str | None = None,
    device: str = "cpu",
    dtype: Dtype = "auto",
    base_mismatch: BaseMismatch = "refuse",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Make an adapter that does what a sentence says; with examples, train it on from there.

    A hypernetwork for the base makes the adapter. With examples it is then
    trained for some steps, a fifth of them held out: training stops when these
    get no better, and their score is told before and after. Without a
    hypernetwork for the base, training starts from zero, and that is said. For
    example:

        weft compile "sort the letters from z to a" -o out/
        weft compile "give the town" --examples rows.jsonl -o out/

    Args:
        description: What the model should do, in words.
        output_dir: Folder to write; an adapter that is there is replaced, anything else is refused.
        examples: Rows with prompt and completion: JSON Lines, CSV or Parquet.
        base: The base that it is for; the hypernetwork's unless given.
        hypernetwork: The hypernetwork that makes the adapter; one that ships with Weft for the base, unless
            given.
        paraphrases: Start from the exact mean of the adapters of so many wordings, 1 to 16.
        max_steps: Most steps of training on the examples; 0 only measures.
        learning_rate: Of Adam.
        rows_per_step: Examples in one step.
        r: Rank of an adapter that starts from zero; a generated one keeps its own.
        seed: Of the order of examples, and of an adapter that starts from zero.
        name: Name of the adapter; made from the description unless given.
        device: Where the base runs: cpu, cuda, cuda:1, ...
        dtype: Number type of the base; auto is the one that it was saved in.
        base_mismatch: What to do with a hypernetwork of another base: refuse it, warn, or allow it.
    """
    set_threads(threads)
    from weft.adapters import save
    from weft.checks import check_target
    from weft.hyper.slug import slug
    from weft.tasks.file import load_file_task
    from weft.types import Description

    check_target(output_dir)  # before minutes of training
    name = name or slug(Description(description))
    task = None
    if examples is not None:
        task = load_file_task(examples, test_ratio=_HELD_OUT, name=name, descriptions=(description,))
    if base is None:
        base = usual_base() if hypernetwork is None else base_of(hypernetwork)
    host = open_host(base, device=device, dtype=dtype)
    chosen = hypernetwork or hypernetwork_for(host)
    start: Adapter | None = None
    near: dict[str, Any] = {}
    if chosen is not None:
        hyper = open_hypernetwork(chosen, host=host, on_mismatch=base_mismatch)
        start, near = adapt_words(hyper.to(host.device), description, paraphrases, name=name)
    elif task is None:
        raise ConfigError(
            f"no hypernetwork for base {base} ships with Weft, and there are no examples; "
            "name a hypernetwork (--with) or give --examples"
        )
    elif paraphrases > 1:
        raise ConfigError(f"--paraphrases are for a hypernetwork, and none for base {base} ships with Weft")
    else:
        print(f"weft: no hypernetwork for base {plain(base)}: training starts from zero", file=sys.stderr)
    shown: dict[str, Any] = {
        "path": str(output_dir),
        "name": name,
        "base": base,
        "start": "zero" if start is None else chosen,
        **near,
    }
    if task is None:
        assert start is not None
        made, rows = start, []
    else:
        task = _fit(task, host)
        provenance = {
            **({} if start is None else start.provenance),
            "description": description,
            "base_model": base,
            "start": shown["start"],
            "data_hash": task.data_hash,
            "seed": seed,
        }
        settings = {"learning_rate": learning_rate, "rows_per_step": rows_per_step}
        refined = _train(
            host, start, task, max_steps, **settings, r=r, seed=seed, name=task.name, provenance=provenance
        )
        rows = _measure(host, description, start, refined.adapter, task.test)
        facts = {
            "examples": len(task.train),
            "held out": len(task.test),
            "steps": refined.steps,
            "kept step": refined.kept_step,
        }
        shown |= facts
        kept = {
            **refined.adapter.provenance,
            "compile": {"max_steps": max_steps, **settings, **facts},
            "scores": rows,
        }
        made = replace(refined.adapter, provenance=kept)
    save(made, output_dir)
    if json:
        print_json(shown | ({"scores": rows} if rows else {}))
        return
    print_pairs(shown)
    if rows:
        print()
        print_rows(rows)


def _fit(task: Task, host: Host) -> Task:
    """The task without the examples that are too long."""
    from weft.tasks import fit_task

    longest = host.window or sys.maxsize
    fitting, left_out = fit_task(host.tokenizer, task, max_length=longest)
    if left_out:
        print(f"weft: left out {left_out} examples, too long for the base's window", file=sys.stderr)
    if fitting is None or not fitting.train:
        raise ConfigError(f"no example of {task.name} fits into the base's window of {longest} tokens")
    if not fitting.test:
        print("weft: too few examples to hold some out: no early stop, no score", file=sys.stderr)
    return fitting


def _train(host: Host, start: Adapter | None, task: Task, steps: int, **options: Any) -> Refined:
    """Train the start on, with the options of `refine`, under a bar."""
    from weft.tasks import render
    from weft.train.refine import refine

    train, held_out = (
        [render(host.tokenizer, row) for row in part] for part in (task.train, task.test[:_MEASURED])
    )
    with _bar(steps) as progress:
        return refine(host, start, train, held_out, steps=steps, progress=progress, **options)


@contextmanager
def _bar(steps: int) -> Iterator[Any]:
    """Steps, time left and loss, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(compact=True)
    with Progress(*columns, TextColumn("{task.fields[shown]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=steps, shown="")
        yield lambda step, loss: bar.update(task, completed=step, shown=f"loss {loss:.3f}")


def _measure(
    host: Host, description: str, start: Adapter | None, made: Adapter, rows: tuple[Row, ...]
) -> list[dict[str, Any]]:
    """Share of held-out answers that are right: of the base, told the description, the start, the result."""
    from weft.engine import Engine
    from weft.evaluate import answer_questions, ask, exact_match, loss
    from weft.types import Bank, Mixture

    rows = rows[:_MEASURED]
    if not rows:
        return []
    engine = Engine(host)
    ways = [
        ("base, told the description", description, None),
        *([] if start is None else [("adapter from the description", None, start)]),
        ("adapter after training", None, made),
    ]
    measured = []
    for way, said, adapter in ways:
        questions = [ask(host.tokenizer, row, said) for row in rows]
        bank = None if adapter is None else Bank.stack([adapter]).to(host.device)
        answers = answer_questions(
            engine,
            questions,
            None if bank is None else Mixture.rows(bank, [0] * len(rows)),
            max_new_tokens=max(len(question.encoded.completion_ids) for question in questions) + 4,
            batch_size=16,
        )
        right = [exact_match(a.text, row.answers) for a, row in zip(answers, rows, strict=True)]
        measured.append(
            {
                "who": way,
                "right": sum(right) / len(rows),
                "loss": sum(loss(a.nll, a.tokens) for a in answers) / len(rows),
                "rows": len(rows),
            }
        )
    return measured
