"""One adapter from several wordings of a description: the exact mean of what each of them makes.

    delta W = 1/N sum_n B_n A_n        one adapter of rank N R, the ranks side by side

Factors cannot be averaged: those of two adapters that do the same may have nothing in common. How alike the
N deltas are, the mean cosine over their pairs, tells how much the network's answer hangs on the wording.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from weft.adapters import concat
from weft.embed import cosines
from weft.errors import ConfigError
from weft.hyper.hypernetwork import HyperNetwork
from weft.hyper.slug import slug
from weft.types import Adapter, Description

_WAYS = (
    "Task: {x}.", "please {x}", "{X}.", "Your job: {x}.", "{X}, nothing else.",
    "Do the following: {x}.", "just {x}", "For every input: {x}.", "{X} and answer with the result only.",
    "Instruction: {x}", "This is what I need: {x}.", "Now {x}", "The task is this: {x}.",
    "What to do: {x}.", "I want this: {x}", "{x}, thanks", "Again: {x}.",
)  # fmt: skip
MOST = len(_WAYS) - 1
"""The description as it is may be one of them, with a capital or without."""


class Paraphrased(NamedTuple):
    """An adapter, and how alike its parts are."""

    adapter: Adapter
    agreement: float | None
    """Mean cosine over the pairs of deltas, -1 to 1; None for one wording."""


def paraphrases(description: str, count: int) -> list[str]:
    """The description as it is, and in other dress: as an order, politely, as a task, with a full stop.

    Raises ConfigError for a count that there are not.
    """
    if not 1 <= count <= MOST:
        raise ConfigError(f"paraphrases is 1 to {MOST}, got {count}")
    bare = description.strip().rstrip(".")
    small, large = bare[:1].lower() + bare[1:], bare[:1].upper() + bare[1:]
    texts = dict.fromkeys([description, *(way.format(x=small, X=large) for way in _WAYS)])
    return list(texts)[:count]


def adapt_paraphrased(
    hyper: HyperNetwork, description: str, count: int, *, name: str | None = None, levels: int | None = None
) -> Paraphrased:
    """The mean adapter of `count` wordings; of one it is what `HyperNetwork.adapt` makes.

    Raises what `paraphrases` and `adapt` raise.
    """
    texts = paraphrases(description, count)
    made = [hyper.adapt(text, name=name, levels=levels) for text in texts]
    if count == 1:
        return Paraphrased(made[0], None)
    cosine_KK = cosines(made)
    agreement = float((cosine_KK.sum() - cosine_KK.trace()) / (count * (count - 1)))
    about: dict[str, Any] = {**made[0].provenance, "paraphrases": texts, "agreement": round(agreement, 4)}
    mean = concat(made, [1 / count] * count)
    name = slug(Description(description)) if name is None else name
    return Paraphrased(replace(mean, name=name, provenance=about), agreement)
