"""`weft eval`: one recipe, one report."""

import json as jsonlib
import shlex
from pathlib import Path
from typing import Any

from weft.cli.shared.flags import Flag, Json, Threads, set_threads
from weft.cli.shared.kinds import kind_of
from weft.cli.shared.model import ModelFlags, load_model
from weft.cli.shared.recipe import Overrides, print_recipe, read_recipe
from weft.cli.shared.screen import print_json, print_pairs
from weft.errors import ConfigError
from weft.files import replace_file, resolve
from weft.plain import plain


def evaluate_recipe(
    recipe: Path,
    /,
    *overrides: Overrides,
    data: str | None = None,
    base: str | None = None,
    predictions: Path | None = None,
    max_new_tokens: int = 64,
    threads: Threads = None,
    dry_run: Flag = False,
    json: Json = False,
) -> None:
    """Compare adapters with their control conditions, as a recipe says; or measure one on a file of rows.

    Every key of the recipe can be set: --key VALUE, or key=VALUE. With the key
    "output", the report is also written as a page, with JSON beside it. For
    example:

        weft eval recipes/letters/eval.yaml --output docs/results/letters.md
        weft eval out/ --data rows.jsonl --predictions said.jsonl

    Args:
        recipe: The recipe, a YAML file; with --data an adapter, or a base.
        data: File of rows; gives loss, perplexity and exact match, and for rows with choices the accuracy
            of choosing the likeliest; of the base alone too.
        base: With --data, the base; what the adapter names unless given.
        predictions: With --data, a file for what was said to each row.
        max_new_tokens: With --data, most tokens of an answer.
        dry_run: Print the whole recipe, and evaluate nothing.
    """
    if data is not None:
        set_threads(threads)
        facts, said = _on_rows(str(recipe), data, base, predictions, max_new_tokens)
        # Printed first: what took an hour should not be lost to a path that cannot be written.
        print_json(facts) if json else print_pairs(_in_words(facts))
        if predictions is not None:
            replace_file(predictions, said)
        return
    from weft.evaluate import EvalRecipe, evaluate, to_dict, to_text, write_report

    config = read_recipe(EvalRecipe, recipe, overrides)
    if dry_run:
        print_recipe(config, json=json)
        return
    set_threads(threads)
    report = evaluate(config, command=shlex.join(["weft", "eval", str(recipe), *overrides]))
    print_json(to_dict(report)) if json else print(plain(to_text(report), keep="\n"), end="")
    if config.output is not None:
        write_report(report, config.output)


def _in_words(told: dict[str, Any]) -> dict[str, Any]:
    """For people: names without underscores, and the base's own measures only as differences."""
    return {name.replace("_", " "): value for name, value in told.items() if name != "without"}


def _on_rows(
    what: str, data: str, base: str | None, predictions: Path | None, max_new_tokens: int
) -> tuple[dict[str, Any], str]:
    """Measures of an adapter on the rows of a file and of its base without it, and what was said (JSONL)."""
    from weft.engine import Engine
    from weft.evaluate import evaluate_rows
    from weft.tasks.file import read_table
    from weft.types import Bank, Mixture

    rows = read_table(data)
    if predictions is not None and predictions.resolve() == Path(data).resolve():
        raise ConfigError(f"--predictions {predictions} would replace the rows; name another file")
    folder = resolve(what)
    is_adapter = folder is not None and kind_of(folder) == "adapter"
    flags = ModelFlags(base=base or (None if is_adapter else what), adapter=(what,) if is_adapter else ())
    host, adapters, share = load_model(flags)
    fitted = [adapter for adapter, _ in share.adapters]
    mixture = Mixture.of(Bank.stack(fitted).to(host.device)) if fitted else None
    engine = Engine(host)
    report = evaluate_rows(engine, rows, mixture, max_new_tokens=max_new_tokens)
    keys = ("prompt", "reference", "prediction")
    lines = [jsonlib.dumps(dict(zip(keys, of_row, strict=True))) + "\n" for of_row in report.predictions]
    names = ("loss", "perplexity", "exact_match", "accuracy", "accuracy_norm")
    measured = {name: getattr(report, name) for name in names if getattr(report, name) is not None}
    facts: dict[str, Any] = {"base": host.name, "adapters": [adapter.name for adapter in adapters]}
    facts |= {"rows": report.rows, "left_out": report.left_out, **measured}
    if mixture is not None:
        alone = evaluate_rows(engine, rows, None, max_new_tokens=max_new_tokens)
        facts["without"] = {name: getattr(alone, name) for name in measured}
        facts |= {f"{name} - base": value - getattr(alone, name) for name, value in measured.items()}
    return facts, "".join(lines)
