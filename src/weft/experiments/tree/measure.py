"""Trees beside what they compete with: one frozen base, equal tokens, the same rows to measure on.

Contestants change the same sites at the same rank r: a single LoRA; one of rank r * experts, so of as many
parameters as a tree of that many leaves; a single LoRA of rank r on larger bases, which must read the same
tokens; SMEAR and a top-1 mixture of `experts`; a tree of every depth.

    training FLOPs = tokens * (4 * base + 6 * computed)     base, computed: parameters in matrices

The base is passed forward and backward to its inputs, what learns also to its weights; attention scores and
the soft weights are left out. By soft descent a tree computes all leaves, by hard descent one.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weft.errors import ConfigError
from weft.experiments.tree.recipe import TreeComparison
from weft.files import read_json, replace_file, to_json
from weft.host import Host
from weft.route import Smear, TreeGate, XLora
from weft.train.recipe import load_base
from weft.train.run import Run
from weft.train.tree import TreeRecipe
from weft.train.tree.learned_tree import LearnedTree, deciding, learned_tree, width
from weft.train.tree.loop import fit
from weft.train.tree.rows import Groups, alone, choose_tasks, tree_rows
from weft.types import AbstractGate


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one contestant reached on one corpus with one seed."""

    corpus: str
    name: str
    kind: str
    """`lora`, `wide lora`, `smear`, `top-1`, `tree`, or `larger`: one LoRA on a larger base."""
    seed: int
    leaves: int
    base_loss: float
    """Nats per answer token, as all losses here."""
    loss: float
    """By hard descent, for a tree."""
    soft_loss: float
    largest_load: float
    """By layer the most loaded leaf, in units of the mean; the worst of the layers."""
    dead_leaves: float
    active: int
    """Parameters that a token passes besides the base: one leaf, and the nodes on the way to it."""
    total: int
    """Parameters that were learned."""
    base: int
    """Parameters in matrices of the base that a token passes."""
    tokens: int
    flops: float
    """Of training."""
    seconds: float
    """Of training: the median step times the steps."""
    data_hash: str
    """Of the token ids that it was measured on."""


def compare_trees(comparison: TreeComparison, tell: Callable[[str], None] = lambda _: None) -> list[Outcome]:
    """Train every contestant and measure it; those that are finished already are read from their folders.

    Raises what `train_tree` raises.
    """
    return [
        outcome
        for corpus, recipe in comparison.corpora.items()
        for seed in comparison.seeds
        for outcome in _compare(corpus, _changed(recipe, corpus, seed), comparison, tell)
    ]


def _compare(
    corpus: str, recipe: TreeRecipe, comparison: TreeComparison, tell: Callable[[str], None]
) -> Iterator[Outcome]:
    seed = recipe.run.seed

    @cache
    def prepared(base: str) -> tuple[Host, Callable[[int], Groups], Groups, int, str]:
        tasks = choose_tasks(recipe)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        mine = recipe.model_copy(update={"base": base})
        host = load_base(mine, device, target_modules=recipe.target_modules, dtype=recipe.dtype)
        draw, test = tree_rows(recipe, host, tasks)
        steps = range(recipe.run.max_steps)
        tokens = sum(len(row.ids) for step in steps for group in draw(step) for row in group)
        return host, draw, test, tokens, _hash(test)

    rows = ""
    for name, kind, changes in _contestants(corpus, recipe, comparison):
        mine = _changed(recipe, f"{name.replace(' ', '-')}-{seed}", seed, **changes)
        kept = Path(mine.run.output_dir) / "outcome.json"
        with Run(mine.run, mine) as run:
            if kept.is_file() and run.last_checkpoint() is not None:
                outcome = Outcome(**read_json(kept))
                rows = rows or outcome.data_hash
                yield outcome
                continue
            tell(f"{corpus}, seed {seed}: {name}")
            host, draw, test, tokens, data_hash = prepared(mine.base)
            if data_hash != (rows := rows or data_hash):
                raise ConfigError(
                    f"{mine.base} reads other tokens than {recipe.base}; it needs its tokenizer"
                )
            learned = _learned(mine, host, kind, comparison.experts).to(host.device)
            if kind == "smear":  # it decides once per line
                metrics = fit(
                    mine, run, host, learned, lambda step, draw=draw: alone(draw(step)), alone(test)
                )
            else:
                metrics = fit(mine, run, host, learned, draw, test)
        base = sum(m.weight.numel() for m in host.module.modules() if isinstance(m, nn.Linear))
        active, soft = _computed(learned, mine, tokens)
        hard_ratio = mine.hard_ratio if kind == "tree" else 1.0
        computed = hard_ratio * active + (1 - hard_ratio) * soft
        outcome = Outcome(
            corpus=corpus,
            name=name,
            kind=kind,
            seed=seed,
            leaves=len(learned.leaves.names),
            base_loss=metrics["base/loss"],
            loss=metrics["hard/loss"],
            soft_loss=metrics["soft/loss"],
            largest_load=metrics["largest_load"],
            dead_leaves=metrics["dead_leaves"],
            active=round(active),
            total=sum(parameter.numel() for parameter in learned.parameters()),
            base=base,
            tokens=tokens,
            flops=tokens * (4 * base + 6 * computed),
            seconds=_seconds(run.folder / "metrics.jsonl") * mine.run.max_steps,
            data_hash=data_hash,
        )
        replace_file(kept, to_json(asdict(outcome)))
        yield outcome


def _contestants(
    corpus: str, recipe: TreeRecipe, comparison: TreeComparison
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, kind, and what differs from the recipe."""
    r, experts = recipe.r, comparison.experts
    yield f"LoRA r {r}", "lora", {"depth": 0}
    wide = {"depth": 0, "r": r * experts, "lora_alpha": recipe.lora_alpha * experts}
    yield f"LoRA r {r * experts}", "wide lora", wide
    for larger, base in comparison.larger.get(corpus, {}).items():
        yield f"LoRA r {r} on {larger}", "larger", {"depth": 0, "base": base}
    yield f"SMEAR {experts}", "smear", {"depth": 0}
    yield f"top-1 of {experts}", "top-1", {"depth": 0}
    for depth in comparison.depths:
        yield f"tree depth {depth}", "tree", {"depth": depth}


def _changed(recipe: TreeRecipe, folder: str, seed: int, **changes: Any) -> TreeRecipe:
    values = recipe.model_dump() | changes
    values["run"] |= {"seed": seed, "output_dir": str(Path(recipe.run.output_dir) / folder)}
    return TreeRecipe.model_validate(values)


def _learned(recipe: TreeRecipe, host: Host, kind: str, experts: int) -> LearnedTree:
    if kind in ("tree", "lora", "wide lora", "larger"):
        return learned_tree(recipe, host)
    layers, sites = deciding(recipe, host)
    names = [f"expert-{k}" for k in range(experts)]
    gate: AbstractGate
    if kind == "smear":
        dim = width(recipe.model_copy(update={"scope": "sequence"}), host)
        gate = Smear(experts, dim, seed=recipe.run.seed)
        return LearnedTree(recipe, sites, gate, names, combine="average")
    gate = XLora(
        experts, width(recipe, host), layers=layers, top_k=1, norm_topk_prob=False, seed=recipe.run.seed
    )
    return LearnedTree(recipe, sites, gate, names)


def _computed(learned: LearnedTree, recipe: TreeRecipe, tokens: int) -> tuple[float, float]:
    """Parameters that a token passes by hard and by soft descent; the work of a row is spread over it."""
    leaves = sum(parameter.numel() for parameter in learned.leaves.parameters())
    one = leaves / len(learned.leaves.names)
    gate = sum(parameter.numel() for parameter in learned.gate.parameters())
    if isinstance(learned.gate, TreeGate):
        nodes = max(len(learned.gate.leaves) - 1, 1)
        return one + gate / nodes * recipe.depth, float(leaves + gate)
    if isinstance(learned.gate, XLora):
        return one + gate, one + gate
    rows = recipe.run.max_steps * (recipe.tasks_per_batch * recipe.rows_per_task + recipe.text_rows)
    averaged = one + (leaves + gate) * rows / tokens
    return averaged, averaged


def _hash(rows: Groups) -> str:
    ids = [(row.prompt_ids, row.completion_ids) for group in rows for row in group]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _seconds(metrics: Path) -> float:
    """The median time of a step, from the lines that training logged."""
    lines = [line for line in map(json.loads, metrics.read_text().splitlines()) if "grad_norm" in line]
    spans = [
        (after["seconds"] - before["seconds"]) / (after["step"] - before["step"])
        for before, after in pairwise(lines)
        if after["seconds"] > before["seconds"]  # not where a run was resumed
    ]
    return statistics.median(spans) if spans else lines[-1]["seconds"] / lines[-1]["step"]
