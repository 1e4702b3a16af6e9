"""The control conditions: what a generated adapter has to be compared with before it means anything.

A network that emits one good adapter whatever it is told beats the base, and may beat it by much. It shows
only beside one multi-task adapter, and when another task's description does as well as the right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from weft.evaluate.wordings import Wordings
from weft.hyper.slug import cue_text
from weft.tasks import Task
from weft.types import AbstractHyperNetwork, Adapter, Bank, Cue

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
MULTITASK_TOLD = "multitask+description"
GENERATED_TOLD = "generated+description"
TOLD = (MULTITASK_TOLD, GENERATED_TOLD)
"""The conditions of `tell_too`."""


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
        *_generated(tasks, wordings, hyper, hyper_key),
    )


def tell_too(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The multi-task and generated adapters of `build_conditions` again, with descriptions in the prompt."""
    found = {condition.name: condition for condition in conditions}
    pairs = zip(TOLD, (MULTITASK, GENERATED), strict=True)
    return tuple(replace(found[name], name=told, described=True) for told, name in pairs)


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


class Made(NamedTuple):
    """Adapters made from cues, each different one once."""

    bank: Bank
    place_N: tuple[int, ...]
    """Of each cue's adapter in the bank."""
    key_N: tuple[str, ...]
    """What each was made from, in words."""


def generate_for(hyper: AbstractHyperNetwork, cues: Sequence[Cue]) -> Made:
    """The adapter of every cue, without gradient."""
    keys = tuple(cue_text(cue) for cue in cues)
    known = dict(zip(keys, cues, strict=True))
    place = {key: k for k, key in enumerate(known)}
    with torch.no_grad():
        bank = hyper.generate(list(known.values()))
    return Made(bank, tuple(place[key] for key in keys), keys)


def _generated(
    tasks: Sequence[Task], wordings: Wordings, hyper: AbstractHyperNetwork | None, hyper_key: str
) -> tuple[Condition, ...]:
    """The four conditions of a hypernetwork; all its adapters, of every kind, are one bank."""
    count = len(tasks)
    if hyper is None:
        return tuple(
            _unavailable(name, count, "no hypernetwork was given")
            for name in (GENERATED, UNSEEN, OTHER, GIBBERISH)
        )
    seen = [task.cue(text) for task, text in zip(tasks, wordings.seen, strict=True)]
    unseen = {n: tasks[n].cue(text) for n, text in enumerate(wordings.unseen) if text is not None}
    meaningless = [task.meaningless(text) for task, text in zip(tasks, wordings.gibberish, strict=True)]
    made = generate_for(hyper, [*seen, *unseen.values(), *meaningless])

    def condition(name: str, at_N: Sequence[int | None], reason: str = "") -> Condition:
        adapter_N = tuple(None if at is None else made.place_N[at] for at in at_N)
        keys_N = tuple("" if at is None else f"{hyper_key} {made.key_N[at]}" for at in at_N)
        return Condition(name, False, made.bank, adapter_N, keys_N, reason)

    at_unseen = {n: count + i for i, n in enumerate(unseen)}
    few = "" if len(unseen) == count else f"{len(unseen)} of {count} tasks keep wordings for evaluation"
    other = wordings.other
    return (
        condition(GENERATED, range(count)),
        condition(UNSEEN, [at_unseen.get(n) for n in range(count)], few),
        _unavailable(OTHER, count, "there is only one task") if other is None else condition(OTHER, other),
        condition(GIBBERISH, range(count + len(unseen), 2 * count + len(unseen))),
    )


def _unavailable(name: str, count: int, reason: str) -> Condition:
    return Condition(name, False, None, (None,) * count, ("",) * count, reason)
