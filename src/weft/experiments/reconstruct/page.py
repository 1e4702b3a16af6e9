"""What `weft experiment reconstruct` found, as a page."""

from __future__ import annotations

from collections.abc import Sequence

from weft.evaluate.tables import how_made, markdown_table
from weft.experiments.reconstruct.measure import Written
from weft.experiments.reconstruct.recipe import ReconstructionRecipe

_READING = (
    "A network is trained to write down the first so many adapters of a library, from a description or from "
    "the name of each ({objective}, {steps} steps). Kept is the share of the library's exact match on test "
    "rows that its adapters have, once from the main description and once from a wording that no training "
    "saw. The error is that of the deltas, || made - wanted ||^2 / || wanted ||^2."
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
            f"{one.error:.3f}",
            f"{one.right:.3f}",
            f"{one.oracle:.3f}",
            f"{one.kept:.3f}",
            "" if one.unseen is None else f"{one.unseen:.3f}",
        ]
        for one in found
    ]
    parts = [
        f"# A library in one network: {recipe.base}",
        _READING.format(objective=recipe.objective, steps=recipe.steps),
        f"![share of the library's score that is kept]({picture})",
        markdown_table(cells),
        *how_made(recipe, command, f"{recipe.rows_per_task} rows of each task. Seed {recipe.seed}. "),
    ]
    return "\n\n".join(parts) + "\n"
