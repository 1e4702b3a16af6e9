"""`weft experiment`: a question about adapters, answered by measuring."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from weft.cli.shared.flags import Flag, Json, Threads, set_threads
from weft.cli.shared.recipe import Overrides, print_recipe, read_recipe
from weft.cli.shared.screen import print_json
from weft.errors import ConfigError
from weft.files import replace_file, to_json
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
    json: Json = False,
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
        quick: Of "dynamic", "zero-shot" and "reconstruct": the same in small; minutes in place of hours,
            rougher numbers, on a page of its own.
        dry_run: Print the whole recipe, and measure nothing.
    """
    room = import_module(f"weft.experiments.{kind.replace('-', '_')}.recipe")
    config = read_recipe(getattr(room, _SCHEMAS[kind]), recipe, overrides)
    if quick:
        config = _shortened(kind, config)
        if not any(token.lstrip("-").partition("=")[0] == "output" for token in overrides):
            config = _beside(config)
    if dry_run:
        print_recipe(config, json=json)
        return
    if config.output is not None and Path(config.output).suffix != ".md":
        raise ConfigError(f"output is a .md file, with JSON and a picture beside it; got {config.output}")
    set_threads(threads)
    tokens = [*overrides, *(["--quick"] if quick else [])]
    runs = {"library": _library, "merging": _merging, "tree": _tree, "dynamic": _dynamic}
    run = (runs | {"zero-shot": _zero_shot, "reconstruct": _reconstruct})[kind]
    command = shlex.join(["weft", "experiment", kind, str(recipe), *tokens])
    page, values, draw = run(config, command, Path(config.output or "page.md").stem)
    values |= {"recipe": config.model_dump(mode="json")}
    # Printed first: what took an hour should not be lost to a path that cannot be written.
    print_json(values) if json else print(plain(page, keep="\n"), end="")
    if config.output is not None:
        replace_file(config.output, page)
        replace_file(Path(config.output).with_suffix(".json"), to_json(values))
        draw(Path(config.output).parent)


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


def _beside(config: Any) -> Any:
    """The page of a quick run lies beside that of the whole one, and does not take its place."""
    if config.output is None:
        return config
    page = Path(config.output)
    return config.model_copy(update={"output": str(page.with_stem(f"{page.stem}-quick"))})


class _Found(NamedTuple):
    """What an experiment has found; its pictures are named after the stem of the page's file."""

    page: str
    values: dict[str, Any]
    """For JSON, without the recipe."""
    draw: Callable[[Path], None]
    """Writes the pictures into a folder."""


def _library(recipe: RoutingRecipe, command: str, stem: str) -> _Found:
    from weft.experiments.library.embeddings import measure_embeddings
    from weft.experiments.library.measure import measure_routing
    from weft.experiments.library.page import routing_page, summarise_ways
    from weft.plot.bars import Bar, draw_bars

    with _status() as tell:
        library, found = measure_routing(recipe, tell)
        retrieved = measure_embeddings(recipe, tell)
    ways = summarise_ways(found, len(recipe.seeds))
    pictures = (f"{stem}.png", f"{stem}-retrieval.png")
    values = {
        "tasks": [task.name for task in library.tasks],
        "ways": [asdict(way) for way in ways],
        "retrieval": [asdict(one) for one in retrieved],
    }

    def draw(folder: Path) -> None:
        bars = [Bar(way.name, way.right, way.sees) for way in ways]
        draw_bars(bars, folder / pictures[0], label="exact match")
        bars = [Bar(f"{one.embedding} ({one.request})", one.top1, f"among {one.size}") for one in retrieved]
        draw_bars(bars, folder / pictures[1], label="top-1 accuracy")

    return _Found(routing_page(recipe, ways, retrieved, pictures=pictures, command=command), values, draw)


def _merging(recipe: MergingRecipe, command: str, stem: str) -> _Found:
    from weft.experiments.merging.measure import measure_merging
    from weft.experiments.merging.page import differences, merging_page, points
    from weft.plot.merging import draw_merging

    with _status() as tell:
        scores = measure_merging(recipe, tell)
    found, picture = points(scores), f"{stem}.png"
    values = {
        "points": [asdict(point) for point in found],
        "differences": [asdict(difference) for difference in differences(scores)],
    }
    page = merging_page(recipe, scores, picture=picture, command=command)
    return _Found(page, values, lambda folder: draw_merging(found, folder / picture))


def _tree(recipe: TreeComparison, command: str, stem: str) -> _Found:
    from weft.experiments.tree.measure import compare_trees
    from weft.experiments.tree.page import tree_page
    from weft.plot.tree import draw_trees

    found = compare_trees(recipe, _line)  # every training has a progress bar of its own
    picture = f"{stem}.png"
    page = tree_page(recipe, found, picture=picture, command=command)
    values = {"outcomes": [asdict(outcome) for outcome in found]}
    return _Found(page, values, lambda folder: draw_trees(found, folder / picture))


def _dynamic(recipe: DynamicRecipe, command: str, stem: str) -> _Found:
    from weft.experiments.dynamic.books import measure_books
    from weft.experiments.dynamic.context import measure_context
    from weft.experiments.dynamic.mix import measure_mix
    from weft.experiments.dynamic.page import PICTURED, dynamic_page, pictured
    from weft.experiments.dynamic.sheets import measure_sheets
    from weft.experiments.dynamic.shift import measure_shift
    from weft.experiments.dynamic.stack import COST, costs, measure_stack
    from weft.experiments.dynamic.words import curves, measure_words
    from weft.plot.bars import Bar, draw_bars
    from weft.plot.costs import draw_costs
    from weft.plot.needles import draw_needles

    sections = {}
    with _status() as tell:
        if recipe.shift is not None:
            sections["shift"] = measure_shift(recipe.shift, tell)
        if recipe.words is not None:
            sections["words"] = measure_words(recipe.words, tell)
        if recipe.sheets is not None:
            sections["sheets"] = measure_sheets(recipe.sheets, tell)
        if recipe.books is not None:
            sections["books"] = measure_books(recipe.books, tell)
        if recipe.context is not None:
            sections["context"] = measure_context(recipe.context, tell)
        if recipe.stack is not None:
            sections["stack"] = measure_stack(recipe.stack, tell)
        if recipe.mix is not None:
            sections["mix"] = measure_mix(recipe.mix, tell)
    values = {name: [asdict(line) for line in lines] for name, lines in sections.items()}
    pictures = {name: f"{stem}-{name}.png" if len(sections) > 1 else f"{stem}.png" for name in sections}

    def draw(folder: Path) -> None:
        for name, lines in sections.items():
            if name == "words" and (words := recipe.words) is not None:
                lengths = [words.lines * times for times in words.times]
                draw_needles(curves(words, lines), lengths, folder / pictures[name])
                continue
            if name == "stack":
                draw_costs(costs(lines), folder / pictures[name], label=COST)
                continue
            bars = [Bar(line.who, line.interval, line.what) for line in pictured(name, lines)]
            limit = max([1.0, *(bar.value.mean for bar in bars)])
            draw_bars(bars, folder / pictures[name], label=PICTURED[name][1], limit=limit)

    return _Found(dynamic_page(sections, command=command, pictures=pictures), values, draw)


def _zero_shot(recipe: ZeroShotRecipe, command: str, stem: str) -> _Found:
    from weft.experiments.zero_shot.measure import measure_zero_shot
    from weft.experiments.zero_shot.page import to_dict, zero_shot_page
    from weft.plot.bars import Bar, draw_bars
    from weft.plot.steps import draw_steps

    found = measure_zero_shot(recipe, _line)  # an evaluation has a progress bar of its own
    pictures = (f"{stem}.png", f"{stem}-steps.png")

    def draw(folder: Path) -> None:
        bars = [
            Bar(f"{split.name.replace('_', ' ')}: {result.condition}", right, result.condition)
            for split in found.splits
            for result in split.results
            if (right := result.metrics.get("exact_match")) is not None
        ]
        if bars:
            draw_bars(bars, folder / pictures[0], label="exact match")
        if found.curves:
            draw_steps(found.curves, folder / pictures[1])

    page = zero_shot_page(recipe, found, pictures=pictures, command=command)
    return _Found(page, to_dict(recipe, found), draw)


def _reconstruct(recipe: ReconstructionRecipe, command: str, stem: str) -> _Found:
    from weft.experiments.reconstruct.measure import measure_reconstruction
    from weft.experiments.reconstruct.page import reconstruct_page
    from weft.plot.reconstruct import draw_reconstruction

    found = measure_reconstruction(recipe, _line)  # every training has a progress bar of its own
    picture = f"{stem}.png"
    page = reconstruct_page(recipe, found, picture=picture, command=command)
    values = {"written": [asdict(one) for one in found]}
    return _Found(page, values, lambda folder: draw_reconstruction(found, folder / picture))


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
