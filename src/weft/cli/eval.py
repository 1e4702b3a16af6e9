"""`weft eval`: one recipe, one report."""

from pathlib import Path

from weft.cli.flags import Flag
from weft.cli.recipe import Overrides, print_recipe, read_recipe
from weft.cli.screen import print_json


def evaluate_recipe(
    recipe: Path,
    /,
    *overrides: Overrides,
    threads: int | None = None,
    dry_run: Flag = False,
    json: Flag = False,
) -> None:
    """Compare adapters with their control conditions, as a recipe says.

    Every key of the recipe can be set: --section.key VALUE, or
    section.key=VALUE. For example:

        weft eval recipes/letters/eval.yaml

    Args:
        recipe: The recipe, a YAML file.
        overrides: Keys of the recipe and their values.
        threads: CPU threads; torch decides unless given.
        dry_run: Print the whole recipe, and evaluate nothing.
        json: Print JSON.
    """
    from weft.evaluate import EvalRecipe, evaluate

    config = read_recipe(EvalRecipe, recipe, overrides)
    if dry_run:
        print_recipe(config, json=json)
        return
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    report = evaluate(config)
    print_json(report) if json else print(report)
