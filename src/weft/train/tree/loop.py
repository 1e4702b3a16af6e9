"""Train a tree on a frozen base: leaves and routers together by soft descent, then the leaves alone by hard.

    loss = CE(answer | prompt; base + sum_k w_k B_k A_k) + h(t) * hardening + a * balance

with the descents of `route/tree.py` and the terms of `route/tree_losses.py`. While descent is soft, h(t)
rises in a straight line from 0 to `hardening` and the temperature falls, by the same factor in every step,
to `final_temperature`. In the last `hard_ratio` of the steps descent is hard, nothing but `rebalance` moves
the nodes, and every leaf learns from its own tokens alone. Prompts carry the task's description, so that
there is something to route by; rows of plain text can be mixed in, or be all there is.

Departs from the fast feedforward paper (Belcak and Wattenhofer 2023, arXiv 2308.14711) in: the factor of
hardening rises and the temperature falls; hard steps at the end; an even start and a balance term (as
Charalampopoulos et al. 2024, arXiv 2405.16836, have one).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from weft.host import Host
from weft.route import TreeGate, save_tree
from weft.route.tree_losses import annealed, even_start, uneven_turns
from weft.tasks import Encoded, hash_tasks
from weft.tasks.batch import pad_id
from weft.train.answer_logits import (
    split_rows,
    sum_gradients,
    sum_over_processes,
    tokens_of_a_forward,
)
from weft.train.learner import Learner
from weft.train.recipe import load_base, provenance
from weft.train.run import Run
from weft.train.tree.forwards import answer_under, evenness, heard, measure, watch
from weft.train.tree.learned_tree import LearnedTree, learned_tree
from weft.train.tree.recipe import TreeRecipe
from weft.train.tree.rows import Groups, choose_tasks, tree_rows
from weft.types import AbstractGate


def train_tree(recipe: TreeRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns the tree folder, `output_dir/tree`. A `host` given replaces `base`.

    Raises UnknownNameError for a split or module that does not exist, PromptTooLongError for a row over
    `max_length`, ConfigError for too little text, a layer that cannot decide, or a folder of another recipe.
    """
    tasks = choose_tasks(recipe)
    with Run(recipe.run, recipe, resume=resume, data_hash=hash_tasks(tasks)) as run:
        device, targets = run.accelerator.device, recipe.target_modules
        host = host or load_base(recipe, device, target_modules=targets, dtype=recipe.dtype)
        draw_groups, test = tree_rows(recipe, host, tasks)
        learned = learned_tree(recipe, host).to(host.device)
        metrics = fit(recipe, run, host, learned, draw_groups, test)
        folder = run.folder / "tree"
        if run.accelerator.is_main_process:
            facts = provenance(recipe, data_hash=hash_tasks(tasks), metrics=metrics)
            tree = learned.tree()
            tree = replace(tree, leaves=replace(tree.leaves, base=host.fingerprint))
            save_tree(tree, folder, provenance=facts, dtype=getattr(torch, recipe.save_dtype))
    return folder


def fit(
    recipe: TreeRecipe,
    run: Run,
    host: Host,
    learned: LearnedTree,
    draw_groups: Callable[[int], Groups],
    test: Groups,
) -> dict[str, float]:
    """Train to the end of a recipe, from its last checkpoint; returns what `measure` finds then.

    A gate that is no tree's has no schedule: its temperature and its descent stay as they are.
    """
    steps, tokens = recipe.run.max_steps, tokens_of_a_forward(host, recipe.tokens_per_forward)
    learner = Learner(run, host, recipe.optimizer, learned)
    if not learner.start and isinstance(learned.gate, TreeGate):
        _start_evenly(host, learned, learned.gate, draw_groups(0), tokens)
    metrics: dict[str, float] = {}
    for done in learner.left():
        groups, factor = draw_groups(run.draw(done)), _schedule(learned.gate, recipe, done)
        shares, load_LK = _backward(host, learned.train(), groups, recipe, factor, run.accelerator)
        learner.step(done, shares)
        gate = learned.gate
        if isinstance(gate, TreeGate) and recipe.rebalance:
            gate.bias_LN.data -= recipe.rebalance * uneven_turns(load_LK, gate.right_NK, gate.left_NK)
        if run.is_due("eval", done) and run.accelerator.is_main_process:
            metrics = measure(host, learned.mixture(), test, tokens=tokens)
            run.log(done, metrics)
        learner.save(done)
    _schedule(learned.gate, recipe, steps)
    return metrics or measure(host, learned.mixture(), test, tokens=tokens)


def _schedule(gate: AbstractGate, recipe: TreeRecipe, done: int) -> float:
    """Set descent and temperature for the step that makes `done`; returns the factor of hardening."""
    soft = recipe.run.max_steps - round(recipe.run.max_steps * recipe.hard_ratio)
    factor = annealed(recipe.hardening, done, soft)
    if isinstance(gate, TreeGate):
        gate.descent = "soft" if done <= soft else "hard"
        fallen = annealed(1.0, done, soft)
        gate.temperature = recipe.temperature ** (1 - fallen) * recipe.final_temperature**fallen
    return factor


@torch.no_grad()
def _start_evenly(host: Host, learned: LearnedTree, gate: TreeGate, groups: Groups, tokens: int) -> None:
    """Move the bias of every node to the median of the tokens that arrive there; B is 0 still."""
    seen: list[list[Tensor]] = [[] for _ in gate.layers]
    for packed, *_ in split_rows(groups, tokens=tokens, pad_id=pad_id(host)):
        _, decisions = answer_under(host, learned.mixture(), packed)
        heard_BT = heard(packed, gate.scope).to(host.device)
        for group, decided in decisions.items():
            seen[group].append(decided.logits[heard_BT])
    for group, logits in enumerate(seen):
        gate.bias_LN[group] += even_start(torch.cat(logits), gate.leaves)


def _backward(
    host: Host,
    learned: LearnedTree,
    groups: Sequence[Sequence[Encoded]],
    recipe: TreeRecipe,
    factor: float,
    accelerator: Accelerator,
) -> tuple[dict[str, float], Tensor]:
    """Add the gradient of one step; returns what it saw, and the loads [L, K], over all processes."""
    tokens = tokens_of_a_forward(host, recipe.tokens_per_forward)
    forwards = list(split_rows(groups, tokens=tokens, pad_id=pad_id(host)))
    asked = torch.tensor(sum(int((f.packed.targets_BT >= 0).sum()) for f in forwards), device=host.device)
    asked = int(sum_over_processes(asked, accelerator))
    told_3 = torch.zeros(3, device=host.device)
    load_LK: Tensor | int = 0
    for packed, *_ in forwards:
        with accelerator.autocast():
            said, decisions = answer_under(host, learned.mixture(), packed)
        # The terms of a forward count by its answer tokens, as its loss does.
        share = len(said.targets_N) / asked
        task = said.nats() / asked
        entropy, uneven, load = watch(learned.gate, decisions, packed)
        accelerator.backward(task + share * (factor * entropy + recipe.balance * uneven))
        told_3 += torch.stack([task, share * entropy, share * uneven]).detach()
        load_LK = load_LK + load
    sum_gradients(learned, accelerator)
    loss, entropy, uneven = sum_over_processes(told_3, accelerator).tolist()
    load_LK = sum_over_processes(torch.as_tensor(load_LK), accelerator)
    shares = {"loss": loss, "entropy": entropy, "balance": uneven, **evenness(load_LK)}
    return shares, load_LK
