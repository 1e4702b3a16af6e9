"""What `weft experiment reconstruct` found, as a page."""

from __future__ import annotations

from collections.abc import Sequence

from weft.evaluate.tables import how_made, markdown_table
from weft.experiments.reconstruct.measure import Written
from weft.experiments.reconstruct.recipe import ReconstructionRecipe

_KEPT, _POINTS, _SMALL = 0.98, 2.0, 0.1
"""Goals: share of the library's score; points of exact match below head L, share of its parameters."""
_READING = (
    "A network is trained to write down the first so many adapters of a library, from a description or from "
    "the name of each ({objective}, {steps} steps, each about {batch} of them). Kept is the share of the "
    "library's exact match on test "
    "rows that its adapters have, once from the main description and once from a wording that no training "
    "saw. The error is that of the deltas in the last step, || made - wanted ||^2 / || wanted ||^2."
)


def reconstruct_page(
    recipe: ReconstructionRecipe, found: Sequence[Written], *, picture: str, command: str
) -> str:
    """The Markdown page."""
    head = ["adapters", "network", "parameters", "cue", "error", "exact match", "library", "kept"]
    cells = [[*head, "unseen wording"]]
    cells += [
        [
            str(one.count),
            one.network,
            f"{one.parameters / 1e6:.2f} M",
            one.cue,
            f"{max(one.error, 0.0):.3f}",  # rounding can take that of a perfect one below 0
            f"{one.right:.3f}",
            f"{one.oracle:.3f}",
            f"{one.kept:.3f}",
            "" if one.unseen is None else f"{one.unseen:.3f}",
        ]
        for one in found
    ]
    most = max(found, key=lambda one: one.count)
    end = f"The curve ends at {most.count} of the {most.of} adapters that `{recipe.library}` holds."
    parts = [
        f"# A library in one network: {recipe.base}",
        _READING.format(objective=recipe.objective, steps=recipe.steps, batch=recipe.tasks_per_batch),
        "\n".join(f"- {line}" for line in [*_goals(found, most.count), end]),
        f"![share of the library's score that is kept]({picture})",
        markdown_table(cells),
        *how_made(recipe, command, f"{recipe.rows_per_task} rows of each task. Seed {recipe.seed}. "),
    ]
    return "\n\n".join(parts) + "\n"


def _goals(found: Sequence[Written], count: int) -> list[str]:
    """Which goals the networks that read descriptions meet, at the largest count."""
    told = {one.network: one for one in found if one.count == count and one.cue == "text"}
    if not told:
        return []
    best = max(told.values(), key=lambda one: one.kept)
    reach = [name for name, one in told.items() if one.kept >= _KEPT]
    met = (
        f"met by {', '.join(reach)}" if reach else f"missed; the best is {best.network} with {best.kept:.3f}"
    )
    lines = [f"Goal: {_KEPT} of the library's score kept, {count} adapters, from descriptions: {met}."]
    if "L" not in told or len(told) == 1:
        return lines
    large, beside = told["L"], []
    for name, one in told.items():
        points, share = 100 * (large.right - one.right), one.parameters / large.parameters
        if name != "L":
            met = "met" if points <= _POINTS and share <= _SMALL else "missed"
            beside.append(
                f"{name} {abs(points):.1f} {'below' if points > 0 else 'above'} at {share:.2f} ({met})"
            )
    goal = f"Goal: at most {_POINTS:.0f} points of exact match below L at {_SMALL} of its parameters: "
    return [*lines, f"{goal}{'; '.join(beside)}."]
