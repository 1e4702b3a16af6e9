"""What a hypernetwork keeps of its training tasks, to say what it knows; see `weft.hyper.reach`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.hyper import HyperNetwork, learn_reach
from weft.tasks import Task, evenly, gibberish

_MOST = 256
_BY_NAME = ("onehot", "learned")


def keep_reach(hyper: HyperNetwork, tasks: Sequence[Task]) -> None:
    """Let a network keep the reach of its training tasks, where there is one."""
    found = reach_of(hyper, tasks)
    if found is not None:
        hyper.provenance |= {"reach": found}


def reach_of(hyper: HyperNetwork, tasks: Sequence[Task]) -> dict[str, Any] | None:
    """The reach of a network that was trained on these tasks, known by their main descriptions.

    The threshold lies between wordings that were kept from training and gibberish of the same shape. None for
    a network that is given names in place of descriptions, and where no wording was kept.
    """
    if hyper.encoder.config()["kind"] in _BY_NAME:
        return None
    known = [task.descriptions[0] for task in tasks]
    kept = evenly([text for task in tasks for text in task.unseen_descriptions], _MOST)
    if not kept:
        return None
    meaningless = [gibberish(text, f"reach/{i}") for i, text in enumerate(evenly(known, _MOST))]
    return learn_reach(hyper, known, kept, meaningless)
