"""Levels of hypernetworks against the same levels at fixed depths, and against one flat network.

Exact match of greedy answers and nats per answer token, by how hard a task is, beside the FLOPs of making one
adapter, counted. A cue that stops by itself pays for its own depth and for the unit that stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from weft.config import Config, Seeds, Size
from weft.errors import ConfigError
from weft.experiments.dynamic.table import Line, line_of
from weft.files import nearest
from weft.host import Host
from weft.hyper import HyperNetwork, Stack
from weft.tasks import Task, evenly
from weft.tasks.source import load_splits
from weft.train.answer_logits import answer_logits
from weft.train.hyper import HyperRecipe, train_hyper
from weft.train.recipe import inside, load_base
from weft.train.stack import StackRecipe, train_stack
from weft.train.steering import mean_by_line, pack_rows
from weft.types import Description, Mixture

UNIT, FLAT = "halting unit", "one flat network"
COST = "MFLOPs per adapter"
_GRADES = {1: "single operations", 2: "pairs", 3: "triples"}
_TOGETHER = 15
"""Tasks that are asked in one forward."""


class StackComparison(Config):
    """`stack` in the recipe of `weft experiment dynamic`."""

    recipe: StackRecipe
    """The training of the levels above the first; runs go into folders below their `run.output_dir`, finished
    ones are not repeated."""
    first: HyperRecipe | None = None
    """The training of the first level, of every seed its own; that of `recipe.init` unless given."""
    flat: HyperRecipe | None = None
    """The training of one network of as many parameters; none is compared unless given."""
    seeds: Seeds = (0,)
    """Everything is trained once with each."""
    splits: tuple[str, ...] = Field(
        default=("validation", "unseen_compositions", "unseen_parameters"), min_length=1
    )
    """Splits of the data of `recipe` that are measured; of `train` its single operations."""
    tasks: Size = 48
    """Of each split at most, evenly spread over them."""
    rows: Size = 4
    """Test rows of each task."""


class Said(NamedTuple):
    """One task under one network."""

    right: float
    nats: float
    """Per answer token."""
    flops: float
    depth: int = 0


def measure_stack(comparison: StackComparison, tell: Callable[[str], None] = lambda _: None) -> list[Line]:
    """All lines of the section, each with one value per seed.

    Raises ConfigError for an unknown split, and what training and loading raise.
    """
    every = load_splits(comparison.recipe.data)
    for name in comparison.splits:
        if name not in every:
            raise ConfigError(
                f"stack.splits: no split {name!r}{nearest(name, every)}; there are {', '.join(every)}"
            )
    graded = [
        (grade_of(split, task), task)
        for split in comparison.splits
        for task in evenly(
            [task for task in every[split] if split != "train" or operations(task) == 1], comparison.tasks
        )
    ]
    tasks = [task for _, task in graded]
    found: dict[str, list[list[Said]]] = {}
    sizes: dict[str, list[float]] = {}
    for seed in comparison.seeds:
        host = load_base(comparison.recipe, "cpu", target_modules="all-linear")
        for who, hyper in _train(comparison, seed, host, tell).items():
            tell(f"seed {seed}: {who}, answers")
            sizes.setdefault(who, []).append(_size(hyper.network))
            for name, said in measure_depths(host, hyper, tasks, comparison.rows).items():
                found.setdefault(name, []).append(said)
    lines = []
    for name, seeds in found.items():
        places = {
            f", {grade}": [place for place, (other, _) in enumerate(graded) if other == grade]
            for grade in dict.fromkeys(grade for grade, _ in graded)
        }
        for of, some in (places | {", all": list(range(len(tasks)))}).items():
            of_seeds = [[said[place] for place in some] for said in seeds]
            lines += [
                line_of(f"exact match{of}", name, [fmean(one.right for one in said) for said in of_seeds]),
                line_of(f"nats per token{of}", name, [fmean(one.nats for one in said) for said in of_seeds]),
                line_of(
                    f"{COST}{of}",
                    name,
                    [fmean(one.flops for one in said) / 1e6 for said in of_seeds],
                ),
            ]
    lines += [line_of("parameters, millions", name, values) for name, values in sizes.items()]
    return lines + _of_depths(found, tasks)


def _train(
    comparison: StackComparison, seed: int, host: Host, tell: Callable[[str], None]
) -> dict[str, HyperNetwork]:
    """What a seed compares, trained or found trained, ready to be asked."""
    recipe = inside(comparison.recipe, f"stack-{seed}", seed=seed)
    if comparison.first is not None:
        tell(f"seed {seed}: training the first level")
        first = train_hyper(inside(comparison.first, f"first-{seed}", seed=seed), host=host)
        recipe = recipe.model_copy(update={"init": str(first)})
    tell(f"seed {seed}: training the levels above the first")
    folders = {"all levels": train_stack(recipe, host=host)}
    if comparison.flat is not None:
        tell(f"seed {seed}: training one flat network")
        folders[FLAT] = train_hyper(inside(comparison.flat, f"flat-{seed}", seed=seed), host=host)
    return {
        who: HyperNetwork.from_pretrained(folder, host=host).requires_grad_(False)
        for who, folder in folders.items()
    }


@torch.no_grad()
def measure_depths(
    host: Host, hyper: HyperNetwork, tasks: Sequence[Task], rows: int
) -> dict[str, list[Said]]:
    """What each task is answered with a flat network, or at every depth of a stack and where it stops."""
    e_ND = hyper.encode([Description(task.descriptions[0]) for task in tasks])
    if not isinstance(hyper.network, Stack):
        return {FLAT: _answers(host, hyper, e_ND, tasks, None, rows)}
    stack = hyper.network
    fixed = [_answers(host, hyper, e_ND, tasks, depth, rows) for depth in range(stack.most + 1)]
    by_itself, flops = [], dict[int, float]()  # what a cue costs that stops there by itself
    for place in range(len(tasks)):
        e_BD = e_ND[place : place + 1]
        depth = int(stack.climb(e_BD)[1])
        said = fixed[depth][place]  # the adapter is the same, so are its answers
        if depth not in flops:
            flops[depth] = _flops(hyper, e_BD, None)
        by_itself.append(said._replace(flops=flops[depth], depth=depth))
    return {always(depth): said for depth, said in enumerate(fixed)} | {UNIT: by_itself}


def operations(task: Task) -> int:
    """How many operations follow each other in it, as its name tells."""
    return len(task.name.split("+"))


def grade_of(split: str, task: Task) -> str:
    """What the page calls such tasks: by how many operations, or by what is unseen of a single one."""
    if operations(task) == 1 and split.startswith("unseen"):
        return split.replace("_", " ")
    return _GRADES.get(operations(task), f"{operations(task)} operations")


def always(depth: int) -> str:
    """What the page calls a fixed depth."""
    return f"{depth} levels above the first, always"


def _answers(
    host: Host, hyper: HyperNetwork, e_ND: Tensor, tasks: Sequence[Task], depth: int | None, rows: int
) -> list[Said]:
    flops, found = _flops(hyper, e_ND[:1], depth), []
    for start in range(0, len(tasks), _TOGETHER):
        some = tasks[start : start + _TOGETHER]
        bank = hyper.generate(e_ND[start : start + _TOGETHER], levels=depth)
        packed = pack_rows(host, [task.test[:rows] for task in some], [None] * len(some))
        said = answer_logits(host, Mixture.rows(bank, range(len(bank))), packed)
        right_B, total_B = packed.count_right_by_line(said.logits_NV, said.targets_N)
        nats_N = F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="none")
        shares, nats = (right_B / total_B).tolist(), mean_by_line(nats_N, said.line_N, len(bank)).tolist()
        found += [Said(*of_task, flops, depth or 0) for of_task in zip(shares, nats, strict=True)]
    return found


def _flops(hyper: HyperNetwork, e_BD: Tensor, depth: int | None) -> float:
    with FlopCounterMode(display=False) as counter:
        hyper.generate(e_BD, levels=depth)
    return float(counter.get_total_flops())


def costs(lines: Sequence[Line]) -> dict[str, dict[str, list[tuple[Line, Line]]]]:
    """What an adapter costs and what is right, by how hard tasks are and by who makes it, for a picture."""
    of = {(line.what, line.who): line for line in lines}
    groups: dict[str, dict[str, list[tuple[Line, Line]]]] = {}
    for what, who in of:
        if what.startswith(f"{COST}, "):
            grade = what.removeprefix(f"{COST}, ")
            way = who if who in (UNIT, FLAT) else "every fixed depth"
            point = of[what, who], of[f"exact match, {grade}", who]
            groups.setdefault(grade, {}).setdefault(way, []).append(point)
    return groups


def _of_depths(found: dict[str, list[list[Said]]], tasks: Sequence[Task]) -> list[Line]:
    """How far up cues go by themselves, and how that goes with the number of operations."""
    hard = [float(operations(task)) for task in tasks]
    depths = [[float(one.depth) for one in said] for said in found[UNIT]]
    lines = []
    for count in sorted(set(hard)):
        some = [place for place, other in enumerate(hard) if other == count]
        means = [fmean(depth[place] for place in some) for depth in depths]
        lines.append(line_of(f"levels used, tasks of {count:.0f}", UNIT, means))
    ranks = [rank_correlation(hard, depth) for depth in depths]
    return [*lines, line_of("rank correlation of depth and operations", UNIT, ranks)]


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's, with mean ranks for ties; 0 where either does not vary."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm else 0.0


def _ranks(values: list[float]) -> torch.Tensor:
    x = torch.tensor(values, dtype=torch.float64)
    below, equal = (x < x[:, None]).sum(1), (x == x[:, None]).sum(1)
    return below + (equal + 1) / 2.0


def _size(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6
