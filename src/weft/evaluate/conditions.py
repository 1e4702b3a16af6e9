"""The control conditions: what a generated adapter has to be compared with before it means anything.

A network that emits one good adapter whatever it is told beats the base, and may beat it by much. It shows
only beside one multi-task adapter, and when another task's description does as well as the right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from weft.evaluate.wordings import Wordings
from weft.tasks import Task
from weft.types import AbstractHyperNetwork, Adapter, Bank, Description

BASE = "base"
DESCRIBED = "base+description"
MULTITASK = "multitask"
ORACLE = "oracle"
GENERATED = "generated"
UNSEEN = "generated, unseen wording"
OTHER = "generated, other task's description"
GIBBERISH = "generated, gibberish"
CONDITIONS = (BASE, DESCRIBED, MULTITASK, ORACLE, GENERATED, UNSEEN, OTHER, GIBBERISH)
"""Every condition, in the order of a report."""


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One way to answer the rows of N tasks."""

    name: str
    described: bool
    """Whether the task's seen description is in the prompt."""
    bank: Bank | None
    """Where its adapters are; None for the base alone."""
    adapter_N: tuple[int | None, ...]
    """Each task's place in the bank, -1 for the base alone; None where the condition cannot be run."""
    key_N: tuple[str, ...]
    """What each task's adapter was made from: the same key stands for the same adapter."""
    reason: str = ""
    """Why it cannot be run, for all tasks or some."""


def build_conditions(
    tasks: Sequence[Task],
    wordings: Wordings,
    *,
    hyper: AbstractHyperNetwork | None = None,
    hyper_key: str = "",
    multitask: Adapter | None = None,
    oracles: Mapping[str, Adapter] | None = None,
) -> tuple[Condition, ...]:
    """All conditions over the same tasks, in the order of CONDITIONS.

    `oracles` are adapters by task name; `hyper_key` tells hypernetworks apart. Whatever is not given makes
    its conditions unavailable.
    """
    count = len(tasks)
    alone = ((-1,) * count, ("",) * count)
    return (
        Condition(BASE, False, None, *alone),
        Condition(DESCRIBED, True, None, *alone),
        _multitask(count, multitask),
        _oracle(tasks, oracles),
        *_generated(wordings, hyper, hyper_key),
    )


def _multitask(count: int, adapter: Adapter | None) -> Condition:
    if adapter is None:
        return _unavailable(MULTITASK, count, "no multi-task adapter was given")
    return Condition(MULTITASK, False, Bank.stack([adapter]), (0,) * count, ("multitask",) * count)


def _oracle(tasks: Sequence[Task], oracles: Mapping[str, Adapter] | None) -> Condition:
    if oracles is None:
        return _unavailable(ORACLE, len(tasks), "no adapters of single tasks were given")
    names = [task.name for task in tasks if task.name in oracles]
    if not names:
        return _unavailable(ORACLE, len(tasks), f"none of the {len(tasks)} tasks has an adapter of its own")
    place = {name: k for k, name in enumerate(names)}
    return Condition(
        ORACLE,
        False,
        Bank.stack([oracles[name] for name in names], names),
        tuple(place.get(task.name) for task in tasks),
        tuple(f"oracle {task.name}" for task in tasks),
        ""
        if len(names) == len(tasks)
        else f"{len(names)} of {len(tasks)} tasks have an adapter of their own",
    )


def _generated(
    wordings: Wordings, hyper: AbstractHyperNetwork | None, hyper_key: str
) -> tuple[Condition, ...]:
    """The four conditions of a hypernetwork; all its adapters, of every kind, are one bank."""
    count = len(wordings.seen)
    if hyper is None:
        return tuple(
            _unavailable(name, count, "no hypernetwork was given")
            for name in (GENERATED, UNSEEN, OTHER, GIBBERISH)
        )
    texts = dict.fromkeys((*wordings.seen, *filter(None, wordings.unseen), *wordings.gibberish))
    place = {text: k for k, text in enumerate(texts)}
    with torch.no_grad():
        bank = hyper.generate([Description(text) for text in texts])

    def condition(name: str, text_N: Sequence[str | None], reason: str = "") -> Condition:
        adapter_N = tuple(None if text is None else place[text] for text in text_N)
        return Condition(
            name, False, bank, adapter_N, tuple(f"{hyper_key} {text}" for text in text_N), reason
        )

    with_unseen = sum(text is not None for text in wordings.unseen)
    unseen = "" if with_unseen == count else f"{with_unseen} of {count} tasks keep wordings for evaluation"
    if wordings.other is None:
        other = _unavailable(OTHER, count, "there is only one task")
    else:
        other = condition(OTHER, [wordings.seen[j] for j in wordings.other])
    return (
        condition(GENERATED, wordings.seen),
        condition(UNSEEN, wordings.unseen, unseen),
        other,
        condition(GIBBERISH, wordings.gibberish),
    )


def _unavailable(name: str, count: int, reason: str) -> Condition:
    return Condition(name, False, None, (None,) * count, ("",) * count, reason)
