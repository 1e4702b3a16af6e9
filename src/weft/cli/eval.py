"""`weft eval`: one recipe, one report."""

import shlex
from pathlib import Path

from weft.cli.shared.flags import Flag, Threads, set_threads
from weft.cli.shared.recipe import Overrides, print_recipe, read_recipe
from weft.cli.shared.screen import print_json
from weft.plain import plain


def evaluate_recipe(
    recipe: Path,
    /,
    *overrides: Overrides,
    threads: Threads = None,
    dry_run: Flag = False,
    json: Flag = False,
) -> None:
    """Compare adapters with their control conditions, as a recipe says.

    Every key of the recipe can be set: --key VALUE, or key=VALUE. With the key
    "output", the report is also written as a page, with JSON beside it. For
    example:

        weft eval recipes/letters/eval.yaml --output docs/results/letters.md

    Args:
        recipe: The recipe, a YAML file.
        overrides: Keys of the recipe and their values.
        threads: CPU threads; torch decides unless given.
        dry_run: Print the whole recipe, and evaluate nothing.
        json: Print JSON.
    """
    from weft.evaluate import EvalRecipe, evaluate, to_dict, to_text, write_report

    config = read_recipe(EvalRecipe, recipe, overrides)
    if dry_run:
        print_recipe(config, json=json)
        return
    set_threads(threads)
    report = evaluate(config, command=shlex.join(["weft", "eval", str(recipe), *overrides]))
    # Printed first: what took an hour should not be lost to a path that cannot be written.
    print_json(to_dict(report)) if json else print(plain(to_text(report), keep="\n"), end="")
    if config.output is not None:
        write_report(report, config.output)
