"""Train task LoRAs on a frozen base: one, or K of them at once through the same forwards.

Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), section 4.1, at every site:

    y = W x + s B A x        s = alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732)

Each step draws rows of all K tasks and packs them into lines of one task each, so a forward serves many
adapters. The loss is the mean over a task's answer tokens, summed over tasks; Adam works number by number and
gradients are clipped per adapter, so each adapter becomes what it would become if it were trained alone.

Departs from the paper in: A starts uniform, as in PEFT, not Gaussian; no dropout.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field, model_validator

from weft.adapters import save
from weft.config import Config
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.host import Host, short_names
from weft.tasks import Encoded, Row, Task, TaskSampler, fit_rows, hash_tasks, render
from weft.tasks.source import Source, load_split
from weft.train.answers import load_base
from weft.train.learned import LearnedBank, backward, score
from weft.train.optimizer import OptimizerConfig, build_optimizers, build_schedulers
from weft.train.run import Run, RunConfig


class LoraRecipe(Config):
    """`weft train lora RECIPE`; names as in PEFT's LoraConfig and TRL's SFTConfig where they have one."""

    run: RunConfig
    base: str
    """Embedded name, folder or hub id of the frozen base."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base; adapters are trained in float32."""
    attn_implementation: Literal["eager", "sdpa"] = "sdpa"
    """On a CPU, short rows under bf16 take a third less time with eager."""
    data: Source = Field(discriminator="kind")
    split: str = "train"
    """Where the tasks come from. Each is trained on its train rows and measured on its test rows."""
    tasks: int | tuple[str, ...] | None = None
    """The first so many, or these, or all."""
    mode: Literal["per_task", "multitask"] = "per_task"
    """One adapter for each task, or a single one for the rows of all."""
    r: int = Field(default=8, gt=0)
    lora_alpha: float = Field(default=16, gt=0)
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r."""
    target_modules: str | tuple[str, ...] = "all-linear"
    describe: bool = False
    """Whether prompts begin with a description of the task."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """`max_grad_norm` clips each adapter by itself."""
    rows_per_task: int = Field(default=8, gt=0)
    """Rows of a task in one step."""
    tasks_per_batch: int | None = Field(default=None, gt=0)
    """How many tasks a step of a multitask run meets, None for all; per_task meets all in every step."""
    tokens_per_forward: int | None = Field(default=None, gt=0)
    """A step takes as many forwards as it needs; None is 1024 on a CPU, 16384 elsewhere."""
    max_length: int | None = Field(default=None, gt=1)
    """Rows of more tokens are left out, and counted; None is the window of the base."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved adapters."""
    eval_rows: int = Field(default=32, gt=0)
    """Rows of each task that it is measured on."""

    @model_validator(mode="after")
    def _fits_together(self) -> "LoraRecipe":
        if self.optimizer.optim != "adamw":
            raise ValueError("adapters are trained with optim: adamw, muon is for whole matrices")
        if self.mode == "per_task" and self.tasks_per_batch is not None:
            raise ValueError("tasks_per_batch is for mode: multitask; per_task meets every task in each step")
        return self


def train_lora(recipe: LoraRecipe, *, host: Host | None = None, resume: bool = True) -> dict[str, Path]:
    """Run a recipe to its end; returns the PEFT folder of each adapter, `output_dir/adapters/NAME`, by name.

    Names are those of the tasks, sorted, or `multitask`. A `host` that is given is used in place of `base`.

    Raises UnknownNameError for a split, task or module that does not exist, ConfigError for a task without
    train rows that fit, or when the folder holds a run of another recipe.

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
    if per_task:
        tasks.sort(key=_length)  # neighbours share forwards, padded to the longest of them
    with Run(recipe.run, recipe, resume=resume) as run:
        host = host or load_base(
            recipe.base,
            dtype=recipe.dtype,
            device=run.accelerator.device,
            target_modules=recipe.target_modules,
            attn_implementation=recipe.attn_implementation,
        )
        fitting = [_fit(task, host, recipe) for task in tasks]
        bank = LearnedBank(
            host.sites,
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
        encode = _encoder(host, recipe)
        [optimizer] = build_optimizers(recipe.optimizer, bank.named_parameters())
        [scheduler] = build_schedulers(recipe.optimizer, [optimizer], recipe.run.max_steps)
        start = run.restore(bank, [optimizer], [scheduler])
        metrics: dict[str, dict[str, float]] = {}
        for done in range(start + 1, recipe.run.max_steps + 1):
            rows: list[list[Encoded]] = [[] for _ in bank.names]
            draw = (done - 1) * run.accelerator.num_processes + run.accelerator.process_index
            for visit in sampler.draw(draw):
                mine = rows[visit.task_index if per_task else 0]
                mine += [encode(row, visit.description) for row in visit.rows]
            loss_K = backward(host, bank, rows, tokens=_tokens(host, recipe), accelerator=run.accelerator)
            norm_K = bank.clip_grad_norm_(recipe.optimizer.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            if run.is_due("logging", done):
                loss, norm, rate = float(loss_K.mean()), float(norm_K.mean()), scheduler.get_last_lr()[0]
                run.log(done, {"loss": loss, "grad_norm": norm, "learning_rate": rate})
            if run.is_due("eval", done) and run.accelerator.is_main_process:
                metrics = measure(host, bank, fitting, recipe)
                run.log(done, _mean(metrics.values()))
            if run.is_due("save", done):
                run.save(done, bank, [optimizer], [scheduler])
        if run.accelerator.is_main_process:
            metrics = metrics or measure(host, bank, fitting, recipe)
            _write(run.folder, host, bank, recipe, tasks, fitting, metrics)
        return {name: run.folder / "adapters" / name for name in sorted(bank.names)}


@torch.no_grad()
def measure(
    host: Host, bank: LearnedBank, tasks: Sequence[Task], recipe: LoraRecipe
) -> dict[str, dict[str, float]]:
    """What each task reaches on its train and test rows, by name: `test/loss`, `test/followed` and so on."""
    encode = _encoder(host, recipe)
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


def _choose(recipe: LoraRecipe) -> list[Task]:
    tasks = load_split(recipe.data, recipe.split)
    if not isinstance(recipe.tasks, tuple):
        if recipe.tasks is not None and not 1 <= recipe.tasks <= len(tasks):
            raise ConfigError(f"tasks is {recipe.tasks}, the split {recipe.split} has {len(tasks)}")
        return list(tasks[: recipe.tasks])
    known = {task.name: task for task in tasks}
    for name in recipe.tasks:
        if name not in known:
            raise UnknownNameError(f"no task {name!r} in the split {recipe.split}{nearest(name, known)}")
    return [known[name] for name in recipe.tasks]


def _length(task: Task) -> float:
    return fmean(len(row.prompt) + len(row.completion) for row in task.train or task.test)


def _fit(task: Task, host: Host, recipe: LoraRecipe) -> Task:
    """The task without the rows that are too long."""
    longest = recipe.max_length or host.window or sys.maxsize
    told = task.descriptions if recipe.describe else ()
    train, _ = fit_rows(host.tokenizer, task.train, max_length=longest, descriptions=told)
    test, _ = fit_rows(host.tokenizer, task.test, max_length=longest, descriptions=told)
    if not train:
        raise ConfigError(f"task {task.name} has no train row of at most {longest} tokens")
    return replace(task, train=train, test=test)


def _encoder(host: Host, recipe: LoraRecipe) -> Callable[[Row, str], Encoded]:
    """Rows to token ids; kept, since a chat template takes longer to write than a row to train on."""

    @lru_cache(maxsize=1 << 16)
    def encode(row: Row, description: str | None) -> Encoded:
        return render(host.tokenizer, row, description=description)

    return lambda row, description: encode(row, description if recipe.describe else None)


def _tokens(host: Host, recipe: LoraRecipe) -> int:
    return recipe.tokens_per_forward or (1024 if host.device.type == "cpu" else 16384)


def _write(
    folder: Path,
    host: Host,
    bank: LearnedBank,
    recipe: LoraRecipe,
    tasks: list[Task],
    fitting: list[Task],
    metrics: Mapping[str, Mapping[str, float]],
) -> None:
    dtype = getattr(torch, recipe.save_dtype)
    told = recipe.model_dump(mode="json", exclude={"run": {"output_dir", "report_to"}})
    for k, name in enumerate(bank.names):
        mine = slice(k, k + 1) if recipe.mode == "per_task" else slice(None)
        left_out = sum(
            len(task.train) + len(task.test) - len(kept.train) - len(kept.test)
            for task, kept in zip(tasks[mine], fitting[mine], strict=True)
        )
        provenance = {
            "base_model": recipe.base,
            "recipe": told,
            "seed": recipe.run.seed,
            "data_hash": hash_tasks(tasks[mine]),
            "target_modules": short_names(host.sites, host.module),
            "rows_left_out": left_out,
            "metrics": _mean([metrics[task.name] for task in tasks[mine]]),
        }
        if recipe.mode == "per_task":
            provenance["description"] = tasks[k].descriptions[0]
        save(
            bank.adapter(k, base=host.fingerprint, provenance=provenance, dtype=dtype),
            folder / "adapters" / name,
        )
