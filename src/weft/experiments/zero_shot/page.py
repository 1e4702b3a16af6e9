"""What `weft experiment zero-shot` found, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from weft.evaluate.report import READING, split_parts
from weft.evaluate.tables import how_made, markdown_table
from weft.experiments.zero_shot.cost import ratios
from weft.experiments.zero_shot.measure import ZeroShot
from weft.experiments.zero_shot.recipe import ZeroShotRecipe
from weft.experiments.zero_shot.steps import Curve, summary

_CONTROLS = (
    "Beside the generated adapter: a random one whose delta has the same norm at every site, drawn anew by "
    "each seed, and a fixed one, the exact mean of those generated for {count} training tasks."
)
_COST = (
    "Seconds are medians on {threads} thread{s}. FLOPs are counted operation by operation; an answer is its "
    "prompt and its tokens, each read once. An adapter is made once and then serves every answer."
)
_STEPS = (
    "Functions that no training has seen, {examples} examples each, both starts on the same rows in the same "
    "order. The goal is the held-out loss that a start from zero has after {steps} steps."
)


def zero_shot_page(
    recipe: ZeroShotRecipe, found: ZeroShot, *, pictures: tuple[str, str], command: str
) -> str:
    """The Markdown page."""
    about = found.hypernetwork
    parts = [
        f"# What a generated adapter is worth: {recipe.base}",
        f"Hypernetwork {about['name']}, step {about['step']}, sha256 {about['sha256']}.",
    ]
    if found.splits:
        parts += [READING, f"![exact match of every condition]({pictures[0]})"]
        parts += [part for split in found.splits for part in split_parts(split)]
    if recipe.controls is not None and found.controls:
        told = _CONTROLS.format(count=recipe.controls.mean_of)
        parts += ["## Adapters that know nothing of the task", told]
        parts += [part for split in found.controls for part in split_parts(split, level=3)]
    if recipe.cost is not None and found.cost:
        threads = found.cost["threads"]
        parts += ["## Cost", _COST.format(threads=threads, s="s" * (threads > 1))]
        parts.append(markdown_table(_cost_cells(found.cost, recipe.cost.adapters)))
    if recipe.steps is not None and found.curves:
        said = _STEPS.format(examples=recipe.steps.examples, steps=recipe.steps.steps)
        parts += ["## Steps saved", said, _told(found.curves, recipe.steps.steps)]
        parts += [f"![held-out loss by steps]({pictures[1]})", markdown_table(_curve_cells(found.curves))]
    return "\n\n".join([*parts, *how_made(recipe, command)]) + "\n"


def to_dict(recipe: ZeroShotRecipe, found: ZeroShot) -> dict[str, Any]:
    """Plain values for JSON, without the recipe."""
    values = asdict(found)
    if recipe.cost is not None and found.cost:
        values["ratios"] = ratios(found.cost, recipe.cost.adapters)
    if recipe.steps is not None and found.curves:
        values["saved"] = summary(found.curves, recipe.steps.steps)
    return values


def _cost_cells(cost: Any, adapters: int) -> list[list[str]]:
    names = dict.fromkeys([*cost["seconds"], *cost["flops"]])
    cells = [["", "milliseconds", "GFLOPs"]]
    for name in names:
        seconds, flops = cost["seconds"].get(name), cost["flops"].get(name)
        cells.append(
            [
                name,
                "" if seconds is None else f"{1000 * seconds:.1f}",
                "" if flops is None else f"{flops / 1e9:.3g}",
            ]
        )
    return [*cells, *([name, f"x {ratio:.2f}", ""] for name, ratio in ratios(cost, adapters).items())]


def _told(curves: Sequence[Curve], steps: int) -> str:
    found = summary(curves, steps)
    return (
        f"The generated start needs {found['median share of the steps']:.2f} of the steps (median of "
        f"{found['functions']} functions); {found['at once']} are there before the first step, "
        f"{found['never']} never get there."
    )


def _curve_cells(curves: Sequence[Curve]) -> list[list[str]]:
    cells = [
        ["function", "zero, at the end", "generated, at the start", "generated, at the end", "steps needed"]
    ]
    for curve in curves:
        needed = "never" if curve.needed is None else str(curve.needed)
        numbers = (curve.zero[-1], curve.generated[0], curve.generated[-1])
        cells.append([curve.task, *(f"{number:.3f}" for number in numbers), needed])
    middle = [
        median(values)
        for values in zip(*((c.zero[-1], c.generated[0], c.generated[-1]) for c in curves), strict=True)
    ]
    return [*cells, ["median", *(f"{number:.3f}" for number in middle), ""]]
