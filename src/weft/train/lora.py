"""Train task LoRAs on a frozen base: one, or K of them at once through the same forwards.

Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), section 4.1, at every site:

    y = W x + s B A x        s = alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732)

Each step draws rows of all K tasks and packs them into lines of one task each, so a forward serves many
adapters. The loss is the mean over a task's answer tokens, summed over tasks; Adam works number by number and
gradients are clipped per adapter, so each adapter becomes what it would become if it were trained alone.

Departs from the paper in: A starts uniform, as in PEFT, not Gaussian; no dropout.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Literal, Self

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from weft.adapters import save
from weft.config import Config
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.host import Host
from weft.tasks import Encoded, Row, Task, TaskSampler, fit_rows, hash_tasks, render
from weft.tasks.source import Source, load_splits
from weft.train.answers import answer, split_rows
from weft.train.learned import LearnedBank
from weft.train.optimizer import OptimizerConfig, build_optimizers, build_schedulers
from weft.train.run import Run, RunConfig
from weft.types import Mixture


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
    eval_rows: int = Field(default=32, gt=0)
    """Rows of each task that it is measured on."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.optimizer.optim != "adamw":
            raise ValueError("adapters are trained with optim: adamw, muon is for whole matrices")
        if self.mode == "per_task" and self.tasks_per_batch is not None:
            raise ValueError("tasks_per_batch is for mode: multitask; per_task meets every task in each step")
        return self


def train_lora(recipe: LoraRecipe, *, host: Host | None = None, resume: bool = True) -> dict[str, Path]:
    """Run a recipe to its end; returns the PEFT folder of each adapter, `output_dir/adapters/NAME`, by name.

    Names are those of the tasks, or `multitask`. A `host` that is given takes the place of loading `base`.

    Raises UnknownNameError for a split, task or module that does not exist, ConfigError for a task without
    train rows that fit, or when the folder holds a run of another recipe.
    """
    tasks = _choose(recipe)
    with Run(recipe.run, recipe, resume=resume) as run:
        host = host or _load(recipe, run.accelerator)
        fitting = [_fit(task, host, recipe) for task in tasks]
        per_task = recipe.mode == "per_task"
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
        optimizers = build_optimizers(recipe.optimizer, bank.named_parameters())
        schedulers = build_schedulers(recipe.optimizer, optimizers, recipe.run.max_steps)
        start = run.restore(bank, optimizers, schedulers)
        metrics: dict[str, dict[str, float]] = {}
        for done in range(start + 1, recipe.run.max_steps + 1):
            rows: list[list[Encoded]] = [[] for _ in bank.names]
            draw = (done - 1) * run.accelerator.num_processes + run.accelerator.process_index
            for task in sampler.draw(draw):
                rows[task.task_index if per_task else 0] += [
                    encode(row, task.description) for row in task.rows
                ]
            loss_K = backward(host, bank, rows, tokens=_tokens(host, recipe), accelerator=run.accelerator)
            norm_K = bank.clip_grad_norm_(recipe.optimizer.max_grad_norm)
            optimizers[0].step()
            optimizers[0].zero_grad()
            schedulers[0].step()
            if run.is_due("logging", done):
                rate = schedulers[0].get_last_lr()[0]
                shown = {
                    "loss": float(loss_K.mean()),
                    "grad_norm": float(norm_K.mean()),
                    "learning_rate": rate,
                }
                run.log(done, shown)
            if run.is_due("eval", done) and run.accelerator.is_main_process:
                metrics = measure(host, bank, fitting, recipe)
                run.log(done, _mean(metrics.values()))
            if run.is_due("save", done):
                run.save(done, bank, optimizers, schedulers)
        if run.accelerator.is_main_process:
            metrics = metrics or measure(host, bank, fitting, recipe)
            _write(run.folder, host, bank, recipe, tasks, fitting, metrics)
        run.accelerator.wait_for_everyone()
        return {name: run.folder / "adapters" / name for name in bank.names}


def backward(
    host: Host,
    bank: LearnedBank,
    rows: Sequence[Sequence[Encoded]],
    *,
    tokens: int,
    accelerator: Accelerator,
) -> Float[Tensor, " K"]:
    """Add to each adapter the gradient of the mean loss over its own rows' answers; returns the K losses, in nats.

    `rows[k]` are those of adapter k. Over several processes, gradients are averaged.
    """
    asked = [sum(len(row.completion_ids) - (not row.prompt_ids) for row in of_one) for of_one in rows]
    asked_K = torch.tensor(asked, device=host.device).clamp_min(1)
    loss_K = torch.zeros(len(rows), device=host.device)
    for packed, start, end, index_B in split_rows(rows, tokens=tokens, pad_id=_pad_id(host)):
        with accelerator.autocast():
            logits_NV, targets_N, line_N = answer(host, Mixture.rows(bank.part(start, end), index_B), packed)
        adapter_N = index_B.to(host.device)[line_N] + start
        loss_N = F.cross_entropy(logits_NV.float(), targets_N, reduction="none") / asked_K[adapter_N]
        accelerator.backward(loss_N.sum())
        loss_K.index_add_(0, adapter_N, loss_N.detach())
    if accelerator.num_processes > 1:
        for parameter in bank.parameters():
            parameter.grad = accelerator.reduce(parameter.grad, "mean")
    return loss_K


@torch.no_grad()
def measure(
    host: Host, bank: LearnedBank, tasks: Sequence[Task], recipe: LoraRecipe
) -> dict[str, dict[str, float]]:
    """What each task reaches on its train and test rows, by its name: `test/loss`, `test/followed`, and so on.

    The loss is per answer token, in nats. `followed` is the share of answers, 0 to 1, that greedy decoding
    would give word for word: one forward tells, each of their tokens has to be the likeliest one.
    """
    encode = _encoder(host, recipe)
    found: dict[str, dict[str, float]] = {}
    for k, task in enumerate(tasks):
        index = k if recipe.mode == "per_task" else 0
        alone = bank.part(index, index + 1)
        found[task.name] = {}
        for part, rows in (("train", task.train), ("test", task.test)):
            encoded = [encode(row, task.descriptions[0]) for row in rows[: recipe.eval_rows]]
            loss, places, right, total = 0.0, 0, 0, 0
            for forward in split_rows([encoded], tokens=_tokens(host, recipe), pad_id=_pad_id(host)):
                said = answer(host, Mixture.rows(alone, forward.index_B), forward.packed)
                loss += float(F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="sum"))
                places += len(said.targets_N)
                correct, count = forward.packed.count_right(said.logits_NV, said.targets_N)
                right, total = right + correct, total + count
            if total:
                found[task.name] |= {f"{part}/loss": loss / max(places, 1), f"{part}/followed": right / total}
    return found


def _mean(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    metrics = list(metrics)
    keys = {key: None for one in metrics for key in one}
    return {key: fmean(one[key] for one in metrics if key in one) for key in keys}


def _choose(recipe: LoraRecipe) -> list[Task]:
    splits = load_splits(recipe.data)
    if recipe.split not in splits:
        raise UnknownNameError(
            f"no split {recipe.split!r}{nearest(recipe.split, splits)}; there are {', '.join(splits)}"
        )
    tasks = splits[recipe.split]
    if not isinstance(recipe.tasks, tuple):
        if recipe.tasks is not None and not 1 <= recipe.tasks <= len(tasks):
            raise ConfigError(f"tasks is {recipe.tasks}, the split {recipe.split} has {len(tasks)}")
        return list(tasks[: recipe.tasks])
    known = {task.name: task for task in tasks}
    for name in recipe.tasks:
        if name not in known:
            raise UnknownNameError(f"no task {name!r} in the split {recipe.split}{nearest(name, known)}")
    return [known[name] for name in recipe.tasks]


def _load(recipe: LoraRecipe, accelerator: Accelerator) -> Host:
    modules = recipe.target_modules
    host = Host.from_pretrained(
        recipe.base,
        dtype=recipe.dtype,
        device=str(accelerator.device),
        target_modules=modules if isinstance(modules, str) else list(modules),
    )
    host.module.set_attn_implementation(recipe.attn_implementation)
    return host


def _fit(task: Task, host: Host, recipe: LoraRecipe) -> Task:
    """The task without the rows that are too long."""
    longest = recipe.max_length or host.window
    told = task.descriptions if recipe.describe else ()
    train, test = (
        fit_rows(host.tokenizer, rows, max_length=longest, descriptions=told)[0]
        for rows in (task.train, task.test)
    )
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


def _pad_id(host: Host) -> int:
    # Padding is masked, so any token will do where a tokenizer has none for it.
    return host.tokenizer.pad_token_id or 0


def _write(
    folder: Path,
    host: Host,
    bank: LearnedBank,
    recipe: LoraRecipe,
    tasks: Sequence[Task],
    fitting: Sequence[Task],
    metrics: Mapping[str, Mapping[str, float]],
) -> None:
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
            "rows_left_out": left_out,
            "metrics": _mean([metrics[task.name] for task in tasks[mine]]),
        }
        if recipe.mode == "per_task":
            provenance["description"] = tasks[k].descriptions[0]
        save(bank.adapter(k, base=host.fingerprint, provenance=provenance), folder / "adapters" / name)
