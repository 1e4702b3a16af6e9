"""`weft experiment`: a question about adapters, answered by measuring."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weft.cli.shared.flags import Flag, Threads, set_threads
from weft.cli.shared.recipe import Overrides, print_recipe, read_recipe
from weft.cli.shared.screen import print_json
from weft.errors import ConfigError
from weft.plain import plain

if TYPE_CHECKING:
    from weft.experiments.dynamic.recipe import DynamicRecipe
    from weft.experiments.library.recipe import RoutingRecipe
    from weft.experiments.merging.recipe import MergingRecipe
    from weft.experiments.reconstruct.recipe import ReconstructionRecipe
    from weft.experiments.tree.recipe import TreeComparison
    from weft.experiments.zero_shot.recipe import ZeroShotRecipe

Kind = Literal["library", "merging", "tree", "dynamic", "zero-shot", "reconstruct"]
_SCHEMAS = {
    "library": "RoutingRecipe",
    "merging": "MergingRecipe",
    "tree": "TreeComparison",
    "dynamic": "DynamicRecipe",
    "zero-shot": "ZeroShotRecipe",
    "reconstruct": "ReconstructionRecipe",
}


def experiment(
    kind: Kind,
    recipe: Path,
    /,
    *overrides: Overrides,
    quick: Flag = False,
    threads: Threads = None,
    dry_run: Flag = False,
    json: Flag = False,
) -> None:
    """Compare routers, merges, trees, changing or generated adapters, on the same rows.

    Every key of the recipe can be set: --key VALUE, or key=VALUE. With the key
    "output" the page is written, with JSON and a picture beside it. For
    example:

        weft experiment library recipes/letters/routing.yaml
        weft experiment merging recipes/letters/merging.yaml
        weft experiment tree recipes/letters/tree_compare.yaml
        weft experiment dynamic recipes/letters/dynamic.yaml --quick
        weft experiment zero-shot recipes/functions/zero_shot.yaml
        weft experiment reconstruct recipes/letters/reconstruction.yaml

    Args:
        kind: Routers, merges and single adapters on one library; merges of 1, 2, 4, ... adapters; trees
            beside one LoRA and mixtures, trained on the same tokens; adapters that change under way;
            generated adapters beside controls, with their cost and the training that they save; or networks
            that write down a library.
        recipe: The recipe, a YAML file.
        overrides: Keys of the recipe and their values.
        quick: Of "dynamic", "zero-shot" and "reconstruct": the same in small; minutes in place of hours,
            rougher numbers.
        threads: CPU threads; torch decides unless given.
        dry_run: Print the whole recipe, and measure nothing.
        json: Print JSON.
    """
    room = import_module(f"weft.experiments.{kind.replace('-', '_')}.recipe")
    config = read_recipe(getattr(room, _SCHEMAS[kind]), recipe, overrides)
    if quick:
        config = _shortened(kind, config)
    if dry_run:
        print_recipe(config, json=json)
        return
    if config.output is not None and Path(config.output).suffix != ".md":
        raise ConfigError(f"output is a .md file, with JSON and a picture beside it; got {config.output}")
    set_threads(threads)
    told = [*overrides, *(["--quick"] if quick else [])]
    runs = {"library": _library, "merging": _merging, "tree": _tree, "dynamic": _dynamic}
    run = (runs | {"zero-shot": _zero_shot, "reconstruct": _reconstruct})[kind]
    run(config, shlex.join(["weft", "experiment", kind, str(recipe), *told]), json)


def _shortened(kind: Kind, config: Any) -> Any:
    if kind in ("zero-shot", "reconstruct"):
        return config.quick()
    if kind != "dynamic":
        raise ConfigError(
            f"--quick is for dynamic, zero-shot and reconstruct; {kind} is made smaller by the keys of its "
            "recipe"
        )
    from weft.experiments.dynamic.quick import shorten

    return shorten(config)


def _library(recipe: RoutingRecipe, command: str, json: bool) -> None:
    from weft.experiments.library.embeddings import measure_embeddings
    from weft.experiments.library.measure import measure_routing
    from weft.experiments.library.page import routing_page, summarise_ways
    from weft.plot.bars import Bar, draw_bars

    with _status() as tell:
        library, found = measure_routing(recipe, tell)
        retrieved = measure_embeddings(recipe, tell)
    ways = summarise_ways(found, len(recipe.seeds))
    pictures = (_picture(recipe.output), _picture(recipe.output, "-retrieval"))
    page = routing_page(recipe, ways, retrieved, pictures=pictures, command=command)
    values = {
        "tasks": [task.name for task in library.tasks],
        "ways": [asdict(way) for way in ways],
        "retrieval": [asdict(one) for one in retrieved],
        "recipe": recipe.model_dump(mode="json"),
    }
    _give(page, values, recipe.output, json)
    if recipe.output is not None:
        folder = Path(recipe.output).parent
        bars = [Bar(way.name, way.right.mean, way.right.low, way.right.high, way.sees) for way in ways]
        draw_bars(bars, folder / pictures[0], label="exact match")
        bars = [
            Bar(
                f"{one.embedding} ({one.request})",
                one.top1.mean,
                one.top1.low,
                one.top1.high,
                f"among {one.size}",
            )
            for one in retrieved
        ]
        draw_bars(bars, folder / pictures[1], label="top-1 accuracy")


def _merging(recipe: MergingRecipe, command: str, json: bool) -> None:
    from weft.experiments.merging.measure import measure_merging
    from weft.experiments.merging.page import differences, merging_page, points
    from weft.plot.merging import draw_merging

    with _status() as tell:
        scores = measure_merging(recipe, tell)
    found = points(scores)
    picture = _picture(recipe.output)
    page = merging_page(recipe, scores, picture=picture, command=command)
    values = {
        "points": [asdict(point) for point in found],
        "differences": [asdict(difference) for difference in differences(scores)],
        "recipe": recipe.model_dump(mode="json"),
    }
    _give(page, values, recipe.output, json)
    if recipe.output is not None:
        draw_merging(found, Path(recipe.output).parent / picture)


def _tree(recipe: TreeComparison, command: str, json: bool) -> None:
    from weft.evaluate.tables import versions
    from weft.experiments.tree.measure import compare_trees
    from weft.experiments.tree.page import to_dict, tree_page
    from weft.plot.tree import draw_trees

    found = compare_trees(recipe, _line)  # every training has a progress bar of its own
    picture = _picture(recipe.output)
    page = tree_page(recipe, found, picture=picture, command=command, versions=versions())
    _give(page, to_dict(recipe, found), recipe.output, json)
    if recipe.output is not None:
        draw_trees(found, Path(recipe.output).parent / picture)


def _dynamic(recipe: DynamicRecipe, command: str, json: bool) -> None:
    from weft.experiments.dynamic.context import measure_context
    from weft.experiments.dynamic.mix import measure_mix
    from weft.experiments.dynamic.page import dynamic_page
    from weft.experiments.dynamic.shift import measure_shift
    from weft.experiments.dynamic.stack import measure_stack

    sections = {}
    with _status() as tell:
        if recipe.shift is not None:
            sections["shift"] = measure_shift(recipe.shift, tell)
        if recipe.context is not None:
            sections["context"] = measure_context(recipe.context, tell)
        if recipe.stack is not None:
            sections["stack"] = measure_stack(recipe.stack, tell)
        if recipe.mix is not None:
            sections["mix"] = measure_mix(recipe.mix, tell)
    page = dynamic_page(sections, command=command)
    values = {name: [asdict(line) for line in lines] for name, lines in sections.items()}
    _give(page, {**values, "recipe": recipe.model_dump(mode="json")}, recipe.output, json)


def _zero_shot(recipe: ZeroShotRecipe, command: str, json: bool) -> None:
    from weft.experiments.zero_shot.measure import measure_zero_shot
    from weft.experiments.zero_shot.page import to_dict, zero_shot_page
    from weft.plot.bars import Bar, draw_bars
    from weft.plot.steps import draw_steps

    found = measure_zero_shot(recipe, _line)  # an evaluation has a progress bar of its own
    pictures = (_picture(recipe.output), _picture(recipe.output, "-steps"))
    page = zero_shot_page(recipe, found, pictures=pictures, command=command)
    _give(page, to_dict(recipe, found), recipe.output, json)
    if recipe.output is None:
        return
    folder = Path(recipe.output).parent
    bars = [
        Bar(
            f"{_spaced(split.name)}: {result.condition}",
            right.mean,
            right.low,
            right.high,
            result.condition,
        )
        for split in found.splits
        for result in split.results
        if (right := result.metrics.get("exact_match")) is not None
    ]
    if bars:
        draw_bars(bars, folder / pictures[0], label="exact match")
    if found.curves:
        draw_steps(found.curves, folder / pictures[1])


def _reconstruct(recipe: ReconstructionRecipe, command: str, json: bool) -> None:
    from weft.experiments.reconstruct.measure import measure_reconstruction
    from weft.experiments.reconstruct.page import reconstruct_page
    from weft.plot.reconstruct import draw_reconstruction

    found = measure_reconstruction(recipe, _line)  # every training has a progress bar of its own
    picture = _picture(recipe.output)
    page = reconstruct_page(recipe, found, picture=picture, command=command)
    values = {"written": [asdict(one) for one in found], "recipe": recipe.model_dump(mode="json")}
    _give(page, values, recipe.output, json)
    if recipe.output is not None:
        draw_reconstruction(found, Path(recipe.output).parent / picture)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """What is being measured: one line of a terminal, or a line each in a log."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    with console.status("loading") as status:
        yield lambda text: status.update(escape(plain(text)))


def _line(text: str) -> None:
    print(plain(text), file=sys.stderr, flush=True)


def _picture(output: str | None, ending: str = "") -> str:
    """The name of a picture beside the page."""
    return f"{Path(output or 'page.md').stem}{ending}.png"


def _give(page: str, values: dict[str, Any], output: str | None, json: bool) -> None:
    """Print, then write: what took an hour should not be lost to a path that cannot be written."""
    from weft.files import replace_file, to_json

    print_json(values) if json else print(plain(page, keep="\n"), end="")
    if output is not None:
        replace_file(output, page)
        replace_file(Path(output).with_suffix(".json"), to_json(values))
