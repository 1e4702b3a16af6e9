"""Is this description in a hypernetwork's reach? How near it is to what the network was trained on.

A description's vector e, as it is or as the network reads it, is compared with those of the known ones:

    similarity = max_n cos(x, x_n)        x = e  (plain)   or   x = (e - mean) / std  (z-scored)

The threshold lies halfway between what wordings of known tasks that were kept from training reach (all but
the lowest 2 of 100) and what meaningless texts reach (all but the highest 2). Of the two spaces the one with
the wider gap is taken: z-scoring helps where parts of a vector differ in size, and drowns everything where
most of its numbers hardly vary. Below the threshold the network has seen nothing like it, and what it makes
is a guess. The known descriptions lie in the network's provenance, so that the nearest can be named; their
vectors are computed once per machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from weft.embed import Cached
from weft.errors import ConfigError
from weft.hyper.hypernetwork import HyperNetwork
from weft.registry import cache_folder
from weft.tasks import evenly
from weft.types import Description

KEY = "reach"
Space = Literal["z-scored", "plain"]
_SPACES: tuple[Space, ...] = ("z-scored", "plain")
_MOST, _TAIL = 256, 0.02
_NAMED = 3


class Reach(NamedTuple):
    """How near a description is to the known ones; both numbers are cosines, -1 to 1."""

    similarity: float
    threshold: float
    nearest: tuple[str, ...]
    """Known descriptions, the nearest first."""

    @property
    def is_within(self) -> bool:
        """Whether the network has learned something like it."""
        return self.similarity >= self.threshold


def learn_reach(
    hyper: HyperNetwork, known: Sequence[str], others: Sequence[str], meaningless: Sequence[str]
) -> dict[str, Any]:
    """What to keep in `provenance["reach"]`: known descriptions and the threshold.

    `known` has the main description of each training task, of which 256 are kept, evenly chosen; `others` are
    wordings of such tasks that were kept from training, `meaningless` are none at all. Raises ConfigError
    where one of them is empty.
    """
    if not (known and others and meaningless):
        raise ConfigError("reach is learned from known, kept and meaningless descriptions; give some of each")
    kept = list(dict.fromkeys(evenly(known, _MOST)))
    found = [(*_gap(hyper, kept, others, meaningless, space), space) for space in _SPACES]
    _, threshold, space = max(found, key=lambda one: one[0])
    return {"known": kept, "threshold": round(threshold, 4), "space": space}


def _gap(
    hyper: HyperNetwork, known: Sequence[str], others: Sequence[str], meaningless: Sequence[str], space: Space
) -> tuple[float, float]:
    """How far apart kept and meaningless descriptions are in a space, and the middle between them."""
    known_ND = _place(hyper, known, space)
    low = (_place(hyper, others, space) @ known_ND.T).amax(1).quantile(_TAIL)
    high = (_place(hyper, meaningless, space) @ known_ND.T).amax(1).quantile(1 - _TAIL)
    return float(low - high), float(low + high) / 2


def reach(hyper: HyperNetwork, description: str) -> Reach | None:
    """How near a description is to those that a network knows; None for one that keeps none.

    Raises ConfigError for a damaged record, CueError for an empty description.
    """
    kept = hyper.provenance.get(KEY)
    if kept is None:
        return None
    if not isinstance(kept, Mapping) or not kept.get("known") or not isinstance(kept.get("threshold"), float):
        raise ConfigError(f"hypernetwork {hyper.name}: provenance.{KEY} should hold known and threshold")
    known = [str(text) for text in kept["known"]]
    space = kept.get("space", "z-scored")  # the only one, once
    if space not in get_args(Space):
        raise ConfigError(f"hypernetwork {hyper.name}: provenance.{KEY}.space is none of {get_args(Space)}")
    similar_N = (_place(hyper, [description], space) @ _place(hyper, known, space).T)[0]
    best = similar_N.topk(min(_NAMED, len(known)))
    return Reach(float(best.values[0]), kept["threshold"], tuple(known[i] for i in best.indices.tolist()))


@torch.no_grad()
def _place(hyper: HyperNetwork, texts: Sequence[str], space: Space) -> Float[Tensor, "N D"]:
    """Unit vectors in a space of descriptions."""
    encoder = hyper.encoder if isinstance(hyper.encoder, Cached) else _cached(hyper)
    e_ND = encoder.encode([Description(text) for text in texts]).float().cpu()
    trunk = hyper.network.trunk
    if space == "z-scored":
        e_ND = (e_ND - trunk.mean.cpu()) / trunk.std.cpu()
    return normalize(e_ND, dim=1)


def _cached(hyper: HyperNetwork) -> Any:
    """The encoder with a memory in the user's cache; one that learns changes, and is asked anew."""
    try:
        return Cached(hyper.encoder, cache_folder() / "vectors")
    except ConfigError:
        return hyper.encoder
