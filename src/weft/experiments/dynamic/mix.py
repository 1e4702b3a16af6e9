"""Questions that need a text in the weights and an operation at once: a mix beside each source alone.

Every way has a speaker of its own, trained on the same questions for as many steps; without the mix every
weight stays 1, or a half. A question counts where the word and what becomes of it are both right, greedily
written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any, Literal, get_args

import torch
from pydantic import Field

from weft.config import Config, Seeds, Size
from weft.engine.mixer import Mixer
from weft.experiments.dynamic.table import Line, line_of, share
from weft.host import Host
from weft.hyper.context import batched
from weft.tasks.recall import SIGNS, Recall
from weft.train.mix import MixRecipe, MixSources, draw, encode_recall, read_recalls, train_mix
from weft.train.recipe import inside, load_base

Way = Literal["mix", "equal weights", "halved weights", "context alone", "stack and library alone"]
WAYS: Mapping[Way, Mapping[str, Any]] = {
    "mix": {},
    "equal weights": {"fixed": 1.0},
    "halved weights": {"fixed": 0.5},
    "context alone": {"sources": ("context",), "fixed": 1.0},
    "stack and library alone": {"sources": ("stack", "library"), "fixed": 1.0},
}

_ROWS = 8
"""Questions that are asked at a time: each holds three adapters of its own."""


class MixComparison(Config):
    """`mix` in the recipe of `weft experiment dynamic`."""

    recipe: MixRecipe
    """The training; runs go into folders below its `run.output_dir`, finished ones are not repeated."""
    seeds: Seeds = (0,)
    """What is trained is trained once with each."""
    ways: tuple[Way, ...] = Field(default=get_args(Way), min_length=1)
    """What is compared."""
    questions: Size = 200
    """Questions that are asked."""


def measure_mix(comparison: MixComparison, tell: Callable[[str], None] = lambda _: None) -> list[Line]:
    """All lines of the section, each with one value per seed. Raises what training and loading raise."""
    rights: dict[str, list[list[bool]]] = {}
    questions = draw(comparison.recipe, "test", comparison.questions)
    for seed in comparison.seeds:
        host: Host | None = None
        for way in comparison.ways:
            tell(f"seed {seed}: {way}")
            recipe = inside(
                comparison.recipe,
                f"{way.replace(' ', '-')}-{seed}",
                seed=seed,
                **WAYS[way],
            )
            host = host or load_base(
                recipe,
                "cuda" if torch.cuda.is_available() else "cpu",
                target_modules=recipe.target_modules,
            )
            mixer = Mixer.from_pretrained(train_mix(recipe, host=host), host=host)
            right = answers(host, mixer, recipe, questions)
            tell(f"seed {seed}: {way} has {share(right):.3f} right")
            rights.setdefault(way, []).append(right)
    lines = [
        line_of("questions right", way, [share(some) for some in seeds]) for way, seeds in rights.items()
    ]
    for sign, source in zip(SIGNS, ("stack", "library"), strict=True):
        places = [k for k, one in enumerate(questions) if one.sign == sign]
        lines += [
            line_of(
                f"of those whose operation the {source} has",
                way,
                [share([s[k] for k in places]) for s in seeds],
            )
            for way, seeds in rights.items()
        ]
    lines += [
        line_of(
            "p of a sign test against the mix",
            way,
            [sign_test(*two) for two in zip(rights.get("mix", ()), seeds, strict=True)],
        )
        for way, seeds in rights.items()
        if way != "mix" and "mix" in rights
    ]
    return lines


@torch.no_grad()
def answers(host: Host, mixer: Mixer, recipe: MixRecipe, questions: Sequence[Recall]) -> list[bool]:
    """Whether each is answered rightly: every token the likeliest where it stands, so the loop writes it."""
    made, found = MixSources.load(recipe, host), []
    for some in batched(questions, _ROWS):
        lessons = [encode_recall(host, one) for one in some]
        found += read_recalls(host, lessons, made.banks(some), mixer.speaker.bank(), mixer.mix).written
    return found


def sign_test(better: Sequence[bool], worse: Sequence[bool]) -> float:
    """Two-sided, exact: how likely so unequal a share of the differing pairs is by chance; 1 for none."""
    wins = sum(a and not b for a, b in zip(better, worse, strict=True))
    losses = sum(b and not a for a, b in zip(better, worse, strict=True))
    count = wins + losses
    tail = sum(comb(count, k) for k in range(max(wins, losses), count + 1))
    return min(1.0, 2 * tail / 2**count)
