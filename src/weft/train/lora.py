"""Train task LoRAs on a frozen base: one, or K of them at once through the same forwards.

Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), section 4.1, at every site:

    y = W x + s B A x        s = alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732)

Each step draws rows of all K tasks and packs them into lines of one task each, so a forward serves many
adapters. The loss is the mean over a task's answer tokens, summed over tasks; Adam works number by number and
gradients are clipped per adapter, so each adapter becomes what it would become if it were trained alone.

With `lora_dropout` each forward has masks of its own, so an adapter among others meets other ones than alone.

Departs from the paper in: A starts uniform, as in PEFT, not Gaussian.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from accelerate import PartialState

from weft.adapters import save
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.host import Dropout
from weft.reading import shown
from weft.rows import AbstractHost
from weft.tasks import Encoded, Task, TaskSampler, fit_task, hash_tasks, row_encoder
from weft.tasks.chat import every_answer
from weft.tasks.source import load_split
from weft.train.answer_logits import tokens_of_a_forward
from weft.train.best import Best
from weft.train.learned_bank import LearnedBank, backward, score
from weft.train.learner import Learner
from weft.train.lora_recipe import LoraRecipe
from weft.train.recipe import load_base, provenance
from weft.train.run import Run
from weft.train.targets import names_of, sites_for

_TOLD = 8
"""Adapters whose losses are logged one by one."""


def train_lora(
    recipe: LoraRecipe, *, host: AbstractHost | None = None, resume: bool = True
) -> dict[str, Path]:
    """Run a recipe to its end; returns the PEFT folder of each adapter, `output_dir/adapters/NAME`, by name.

    Names are those of the tasks, sorted, or `multitask`. A `host` that is given is used in place of `base`.

    Raises UnknownNameError for a split, task or module that does not exist, ConfigError for a task without
    train rows that fit, or when the folder holds a run of another recipe, of other data or over another base;
    NotFiniteError at the first loss or gradient that is no number.

    Args:
        recipe: What is trained on what, and where it goes.
        host: The base, local or spread over machines; loaded as the recipe says unless given.
        resume: Whether an unfinished run in the folder goes on; else it begins anew.

    Example:
        >>> from weft.config import parse_config
        >>> from weft.train import LoraRecipe, train_lora
        >>> recipe = {
        ...     "run": {"output_dir": "run", "max_steps": 1},
        ...     "base": "weft/letters",
        ...     "data": {"kind": "letters", "train_tasks": 1, "train_rows": 4, "test_rows": 4},
        ...     "tasks": 1,
        ...     "rows_per_task": 2,
        ... }
        >>> [folder.parent.name for folder in train_lora(parse_config(LoraRecipe, recipe, "mine")).values()]
        ['adapters']
    """
    tasks = _choose(recipe)
    per_task = recipe.mode == "per_task"
    config = recipe.run
    if config.num_train_epochs:
        config = config.model_copy(update={"max_steps": _steps(recipe, tasks), "num_train_epochs": 0})
    if per_task:
        tasks.sort(key=lambda task: task.mean_length)  # neighbours share forwards, padded to the longest
    with Run(config, recipe, resume=resume, data_hash=hash_tasks(tasks)) as run:
        device, targets = run.accelerator.device, recipe.target_modules
        host = host or load_base(recipe, device, target_modules=targets, dtype=recipe.dtype)
        tasks, fitting = _fitting(tasks, host, recipe, run)
        bank = LearnedBank(
            sites_for(host, recipe.target_modules),
            [task.name for task in tasks] if per_task else ["multitask"],
            r=recipe.r,
            scaling=recipe.lora_alpha / (math.sqrt(recipe.r) if recipe.use_rslora else recipe.r),
            seed=recipe.run.seed,
        ).to(host.device)
        sampler = TaskSampler(
            fitting,
            tasks_per_batch=recipe.tasks_per_batch or len(tasks),
            rows_per_task=recipe.rows_per_task,
            seed=recipe.run.seed,
        )
        encode = row_encoder(host.tokenizer, describe=recipe.describe)
        learner = Learner(run, host, recipe.optimizer, bank, clip=bank.clip_grad_norm_)
        seeks = recipe.load_best_model_at_end or recipe.early_stopping_patience is not None
        if seeks and not all(task.test for task in fitting):
            raise ConfigError("the best step is the one of the lowest test loss; give every task test rows")
        best = Best(bank, run.folder, step=learner.start) if seeks else None
        metrics: dict[str, dict[str, float]] = {}
        if config.eval_on_start and not learner.start:
            run.log(0, _mean(measure(host, bank, fitting, recipe).values()))
        for done in learner.left():
            if best is not None and best.has_ended(recipe.early_stopping_patience):
                run.say(f"stopped after step {done - 1}: the test loss no longer falls")
                break
            rows: list[list[Encoded]] = [[] for _ in bank.names]
            draw = run.draw(done)
            for visit in sampler.draw(draw):
                mine = rows[visit.task_index if per_task else 0]
                mine += [encode(row, visit.description) for row in visit.rows]
            masks = Dropout(recipe.lora_dropout, f"{config.seed}/{draw}")
            loss_K = backward(
                host,
                bank,
                rows,
                tokens=_tokens(host, recipe),
                accelerator=run.accelerator,
                dropout=masks if masks.p else None,
            )
            if not loss_K.isfinite().all():
                run.check_finite(done, loss_K, _where(host, bank, rows, loss_K, _tokens(host, recipe)))
            learner.step(done, _losses(bank.names, loss_K))
            if run.is_due("eval", done):
                metrics = measure(host, bank, fitting, recipe)
                run.log(done, _mean(metrics.values()))
                if best is not None:
                    tests = [metrics[task.name]["test/loss"] for task in fitting]
                    losses = tests if per_task else [fmean(tests)]
                    best.see(done, losses, write=run.accelerator.is_main_process)
            if not learner.save(done) and best is not None and best.has_ended(recipe.early_stopping_patience):
                learner.keep(done)
        if best is not None and recipe.load_best_model_at_end:
            best.bring_back()
            metrics = {}
            run.say(f"kept the state after step {', '.join(map(str, dict.fromkeys(best.steps)))}")
        if run.accelerator.is_main_process:
            metrics = metrics or measure(host, bank, fitting, recipe)
            _write(run.folder, host, bank, recipe, tasks, fitting, metrics)
        return {name: run.folder / "adapters" / name for name in sorted(bank.names)}


@torch.no_grad()
def measure(
    host: AbstractHost, bank: LearnedBank, tasks: Sequence[Task], recipe: LoraRecipe
) -> dict[str, dict[str, float]]:
    """What each task reaches on its train and test rows, by name: `test/loss`, `test/followed` and so on."""
    encode = row_encoder(host.tokenizer, describe=recipe.describe)
    found: dict[str, dict[str, float]] = {}
    for k, task in enumerate(tasks):
        index = k if recipe.mode == "per_task" else 0
        alone = bank.part(index, index + 1)
        found[task.name] = {}
        for part, rows in (("train", task.train), ("test", task.test)):
            encoded = [encode(row, task.descriptions[0]) for row in rows[: recipe.eval_rows]]
            if encoded:
                loss, followed = score(host, alone, encoded, tokens=_tokens(host, recipe))
                found[task.name] |= {f"{part}/loss": loss, f"{part}/followed": followed}
    return found


def _mean(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    metrics = list(metrics)
    keys = {key: None for one in metrics for key in one}
    return {key: fmean(one[key] for one in metrics if key in one) for key in keys}


def _steps(recipe: LoraRecipe, tasks: Sequence[Task]) -> int:
    """How many steps meet every row of the largest task `num_train_epochs` times."""
    visits = max(-(-len(task.train) // recipe.rows_per_task) for task in tasks)
    rounds = -(-len(tasks) // (recipe.tasks_per_batch or len(tasks)))
    return max(1, math.ceil(recipe.run.num_train_epochs * visits * rounds / PartialState().num_processes))


def _losses(names: Sequence[str], loss_K: torch.Tensor) -> dict[str, float]:
    """The mean loss, and that of each adapter where they are few enough to read."""
    told = {"loss": float(loss_K.mean())}
    if 1 < len(names) <= _TOLD:
        told |= {f"{name}/loss": loss for name, loss in zip(names, loss_K.tolist(), strict=True)}
    return told


def _where(
    host: AbstractHost,
    bank: LearnedBank,
    rows: Sequence[Sequence[Encoded]],
    loss_K: torch.Tensor,
    tokens: int,
) -> str:
    """Which adapter's loss is no number, and on which of its rows."""
    k = int((~loss_K.isfinite()).nonzero()[0])
    for row in rows[k]:
        if not math.isfinite(score(host, bank.part(k, k + 1), [row], tokens=tokens)[0]):
            return f"the loss of {bank.names[k]} on the row {shown(host.tokenizer.decode(row.ids))}"
    return f"the loss of {bank.names[k]}"


def _fitting(
    tasks: Sequence[Task], host: AbstractHost, recipe: LoraRecipe, run: Run
) -> tuple[list[Task], list[Task]]:
    """Tasks that keep train rows, whole and with the rows that fit alone; says once how much was left out."""
    longest = recipe.max_length or host.window or sys.maxsize
    kept, fitting = [], []
    for task in tasks:
        part = _fit(task, host, recipe, longest)
        if part is not None and part.train:
            kept.append(task)
            fitting.append(part)
        elif recipe.mode == "per_task":
            raise ConfigError(f"task {task.name} has no train row of at most {longest} tokens")
    if not kept:
        raise ConfigError(f"none of {len(tasks)} tasks has a train row of at most {longest} tokens")
    whole, rows = (sum(len(task.train) + len(task.test) for task in these) for these in (tasks, fitting))
    if whole != rows:
        run.say(f"left out {whole - rows} of {whole} rows, too long for max_length or the base's window")
    if len(kept) < len(tasks):
        run.say(f"left out {len(tasks) - len(kept)} of {len(tasks)} tasks, which keep no train row")
    return kept, fitting


def _choose(recipe: LoraRecipe) -> list[Task]:
    first = None if isinstance(recipe.tasks, tuple) else recipe.tasks
    tasks = list(load_split(recipe.data, recipe.split, first))
    if recipe.every_answer:
        tasks = [replace(task, train=every_answer(task.train)) for task in tasks]
    if not isinstance(recipe.tasks, tuple):
        return tasks
    known = {task.name: task for task in tasks}
    for name in recipe.tasks:
        if name not in known:
            raise UnknownNameError(f"no task {name!r} in the split {recipe.split}{nearest(name, known)}")
    return [known[name] for name in recipe.tasks]


def _fit(task: Task, host: AbstractHost, recipe: LoraRecipe, longest: int) -> Task | None:
    """The task without the rows that are too long, None if it keeps none."""
    told = task.descriptions if recipe.describe else ()
    try:
        fitting, _ = fit_task(host.tokenizer, task, max_length=longest, descriptions=told)
    except ConfigError as error:
        raise ConfigError(f"task {task.name}: {error}") from error
    return fitting


def _tokens(host: AbstractHost, recipe: LoraRecipe) -> int:
    return tokens_of_a_forward(host, recipe.tokens_per_forward, on_cpu=1024)


def _write(
    folder: Path,
    host: AbstractHost,
    bank: LearnedBank,
    recipe: LoraRecipe,
    tasks: list[Task],
    fitting: list[Task],
    metrics: Mapping[str, Mapping[str, float]],
) -> None:
    dtype = getattr(torch, recipe.save_dtype)
    for k, name in enumerate(bank.names):
        mine = slice(k, k + 1) if recipe.mode == "per_task" else slice(None)
        left_out = sum(
            len(task.train) + len(task.test) - len(kept.train) - len(kept.test)
            for task, kept in zip(tasks[mine], fitting[mine], strict=True)
        )
        told = provenance(
            recipe,
            data_hash=hash_tasks(tasks[mine]),
            target_modules=names_of(host, bank.sites),
            rows_left_out=left_out,
            metrics=_mean([metrics[task.name] for task in tasks[mine]]),
        )
        if recipe.mode == "per_task":
            told["description"] = tasks[k].descriptions[0]
        adapter = bank.adapter(k, base=host.fingerprint, provenance=told, dtype=dtype)
        save(adapter, folder / "adapters" / name)
