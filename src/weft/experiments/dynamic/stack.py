"""Levels of hypernetworks against the same levels at fixed depths, and against one flat network.

Exact match of greedy answers and nats per answer token, by how many operations a task joins, beside the FLOPs
of making one adapter, counted. The cost of a cue is that of its own depth.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from weft.config import Config, Size
from weft.experiments.dynamic.table import Line, line_of
from weft.host import Host
from weft.hyper import HyperNetwork, Stack
from weft.tasks import Task
from weft.tasks.source import Source, load_splits
from weft.train.answer_logits import answer_logits
from weft.train.steering import pack_rows
from weft.types import Description, Mixture


class StackComparison(Config):
    """`stack` in the recipe of `weft experiment dynamic`."""

    base: str
    """Embedded name, folder or hub id of the frozen base."""
    stacks: tuple[str, ...]
    """Folders of trained stacks, one per seed."""
    flat: tuple[str, ...] = ()
    """Folders of single hypernetworks of as many parameters, one per seed."""
    data: Source = Field(discriminator="kind")
    splits: tuple[str, ...] = ("validation", "unseen_compositions", "unseen_parameters")
    """Splits of the data that are measured."""
    tasks: Size = 48
    """Of each split, at most."""
    rows: Size = 4
    """Test rows of each task."""


class Said(NamedTuple):
    """One task under one network."""

    right: float
    nats: float
    """Per answer token."""
    depth: int
    flops: float


def measure_stack(recipe: StackComparison, tell: Callable[[str], None]) -> list[Line]:
    """All lines of the section, each with one value per seed."""
    host = Host.from_pretrained(recipe.base, dtype="float32")
    every = load_splits(recipe.data)
    of_split = [(split, task) for split in recipe.splits for task in every[split][: recipe.tasks]]
    tasks = [task for _, task in of_split]
    group_of = [f"{task.category}, {split}" for split, task in of_split]
    found: dict[str, list[list[Said]]] = {}
    sizes: dict[str, list[float]] = {}
    for folder in recipe.stacks:
        tell(folder)
        hyper = HyperNetwork.from_pretrained(folder, host=host).requires_grad_(False)
        assert isinstance(hyper.network, Stack)
        sizes.setdefault("all levels", []).append(_size(hyper.network))
        for levels in (*range(hyper.network.most + 1), None):
            name = "halting unit" if levels is None else f"{levels} levels above the first, always"
            found.setdefault(name, []).append(_answers(host, hyper, tasks, levels, recipe.rows))
    for folder in recipe.flat:
        tell(folder)
        hyper = HyperNetwork.from_pretrained(folder, host=host).requires_grad_(False)
        sizes.setdefault("one flat network", []).append(_size(hyper.network))
        found.setdefault("one flat network", []).append(_answers(host, hyper, tasks, None, recipe.rows))
    lines = []
    for name, seeds in found.items():
        for group in dict.fromkeys(group_of):
            places = [place for place, of_task in enumerate(group_of) if of_task == group]
            rights = [fmean(said[place].right for place in places) for said in seeds]
            nats = [fmean(said[place].nats for place in places) for said in seeds]
            lines.append(line_of(f"exact match, {group}", name, rights))
            lines.append(line_of(f"nats per token, {group}", name, nats))
        lines.append(line_of("exact match, all", name, [fmean(one.right for one in said) for said in seeds]))
        flops = [fmean(one.flops for one in said) / 1e6 for said in seeds]
        lines.append(line_of("MFLOPs per adapter", name, flops))
    lines += [line_of("parameters, millions", name, values) for name, values in sizes.items()]
    if "halting unit" in found:
        hard = [float(len(task.name.split("+"))) for task in tasks]
        depths = [[float(one.depth) for one in said] for said in found["halting unit"]]
        lines.append(line_of("levels used, mean", "halting unit", [fmean(depth) for depth in depths]))
        ranks = [rank_correlation(hard, depth) for depth in depths]
        lines.append(line_of("rank correlation of depth and operations", "halting unit", ranks))
    return lines


@torch.no_grad()
def _answers(host: Host, hyper: HyperNetwork, tasks: list[Task], levels: int | None, rows: int) -> list[Said]:
    e_ND = hyper.encode([Description(task.descriptions[0]) for task in tasks])
    cost: dict[int, float] = {}
    said = []
    for place, task in enumerate(tasks):
        e_BD = e_ND[place : place + 1]
        depth = 0
        if isinstance(hyper.network, Stack):
            depth = int(hyper.network.climb(e_BD, levels)[1])
        bank = hyper.generate(e_BD, levels=depth)
        if depth not in cost:
            with FlopCounterMode(display=False) as counter:
                hyper.generate(e_BD, levels=depth)
            cost[depth] = counter.get_total_flops()
        packed = pack_rows(host, [task.test[:rows]], [None])
        told = answer_logits(host, Mixture.rows(bank, [0]), packed)
        correct, count = packed.count_right(told.logits_NV, told.targets_N)
        nats = float(F.cross_entropy(told.logits_NV.float(), told.targets_N))
        said.append(Said(correct / count, nats, depth, cost[depth]))
    return said


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
