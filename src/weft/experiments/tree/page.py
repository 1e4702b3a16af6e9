"""What `weft experiment tree` found, as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from weft.evaluate.tables import how_made, markdown_table
from weft.experiments.tree.measure import Outcome
from weft.experiments.tree.recipe import TreeComparison

_READING = (
    "Perplexity is that of answer tokens (on plain text, of all tokens behind the first few) of rows that "
    "were not trained on, by hard descent for a tree. All contestants of a corpus train on the same rows, in "
    "the same order, at the same rank and at the same sites of one frozen base. `active`: learned parameters "
    "that a token passes, one leaf and the nodes on the way to it; `with base`: and those of the base's "
    "matrices. `FLOPs`: of training, by the formula of "
    "src/weft/experiments/tree/measure.py; a tree computes all its leaves by soft descent. `time`: the "
    "median step times the steps, on a machine that may have had other work. `gap`: hard over soft loss, "
    "less 1. `load`: of the most loaded leaf, in units of the mean, the worst layer; `dead`: leaves "
    "without a token."
)


def tree_page(comparison: TreeComparison, outcomes: Sequence[Outcome], *, picture: str, command: str) -> str:
    """The Markdown page."""
    parts = [
        "# A tree of LoRAs beside one LoRA and mixtures",
        _READING,
        f"![perplexity against four costs]({picture})",
    ]
    for corpus, recipe in comparison.corpora.items():
        mine = [outcome for outcome in outcomes if outcome.corpus == corpus]
        parts += [
            f"## {corpus}",
            f"Base {recipe.base}; {mine[0].tokens:,} tokens in {recipe.run.max_steps} steps. "
            f"{_told_seeds(comparison.seeds)} Rows {mine[0].data_hash[:16]}.",
            _table(mine),
        ]
    return "\n\n".join([*parts, *how_made(comparison, command)]) + "\n"


def _told_seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): differences that another seed may turn round are not told apart."
    return f"Means over seeds {', '.join(map(str, seeds))}; in brackets the least and the largest."


def _table(outcomes: Sequence[Outcome]) -> str:
    head = ["", "perplexity", "loss", "less than LoRA", "active", "with base", "total", "FLOPs", "time, s"]
    lines = [[*head, "gap", "load", "dead"]]
    single = {outcome.seed: outcome.loss for outcome in outcomes if outcome.kind == "lora"}
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.name == name]
        if mine[0].kind in ("lora", "larger"):
            alone = fmean(outcome.base_loss for outcome in mine)
            less = _spread([single[outcome.seed] - outcome.base_loss for outcome in mine], 4)
            first = [
                name.rpartition(" on ")[2] if mine[0].kind == "larger" else "base",
                f"{math.exp(alone):.3f}",
            ]
            lines.append([*first, f"{alone:.4f}", less, "0", f"{mine[0].base:,}", "0", *[""] * 5])
        gaps = [outcome.loss / outcome.soft_loss - 1 for outcome in mine]
        is_tree = mine[0].kind == "tree"
        lines.append(
            [
                name,
                _spread([math.exp(outcome.loss) for outcome in mine], 3),
                _spread([outcome.loss for outcome in mine], 4),
                _spread([single[outcome.seed] - outcome.loss for outcome in mine], 4),
                f"{mine[0].active:,}",
                f"{mine[0].base + mine[0].active:,}",
                f"{mine[0].total:,}",
                f"{fmean(outcome.flops for outcome in mine):.2e}",
                f"{fmean(outcome.seconds for outcome in mine):.0f}",
                f"{100 * fmean(gaps):+.2f} %" if is_tree else "",
                f"{max(o.largest_load for o in mine):.2f}" if mine[0].kind in ("tree", "top-1") else "",
                f"{max(o.dead_leaves for o in mine):.0f}" if mine[0].kind in ("tree", "top-1") else "",
            ]
        )
    return markdown_table(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{fmean(values) + 0.0:.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} [{min(values):.{digits}f}, {max(values):.{digits}f}]"
