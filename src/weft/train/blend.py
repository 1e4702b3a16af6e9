"""Train a blend end to end: requests in, weights over a frozen library out, loss on the tasks' answers.

    min_theta  E_task  CE(answer | prompt; base + sum_k w_k B_k A_k),  w = blend_theta(request, labels)

with the network of `route/blend.py`. A request is the task's description, in a wording drawn afresh, or the
prompt itself. Nobody tells the network which adapter is right: where no adapter fits, the loss says which
mixture does best.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor

from weft.embed import Cached, EncoderConfig, build_encoder
from weft.errors import ConfigError
from weft.host import Host, targets_for
from weft.route import Blend, Library, load_library
from weft.rows import AbstractHost
from weft.tasks import Encoded, Row, Task, TaskSampler, hash_tasks, row_encoder
from weft.tasks.batch import pad_id
from weft.tasks.chat import encode_longest
from weft.tasks.source import Data, load_split
from weft.train.answer_logits import (
    answer_logits,
    split_rows,
    sum_gradients,
    sum_over_processes,
    tokens_of_a_forward,
)
from weft.train.learner import Learner
from weft.train.recipe import AbstractRecipe, load_base, provenance
from weft.train.run import Run
from weft.types import Bank, Mixture


class BlendRecipe(AbstractRecipe):
    """`weft train blend RECIPE`; names as in `weft train lora` where they have one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base and the library; the network is trained in float32."""
    library: str
    """A folder of adapter folders, or one that ships with Weft; every card needs a description."""
    labels: Literal["card", "wordings"] = "card"
    """What stands for an adapter: its card's description, or all wordings of the task it is named after."""
    data: Data
    split: str = "train"
    """Where the tasks come from: trained on their train rows, measured on their test rows."""
    tasks: int | Literal["library"] | None = None
    """The first so many, those that an adapter of the library is named after, or all."""
    request: Literal["description", "prompt"] = "description"
    """What the network reads: a wording of the task, or each row's own prompt."""
    describe: bool = False
    """Whether the base's prompts begin with the description too."""
    encoder: EncoderConfig
    encoder_cache: str = "runs/encoder-cache"
    """Folder that remembers the vectors of texts."""
    hidden: int = Field(default=256, gt=0)
    """Width of the network's hidden layer."""
    temperature: float = Field(default=0.1, gt=0)
    """Of the softmax at the start; it is learned."""
    top_k: int | None = Field(default=None, gt=1)
    """The best so many share a request, here and in what is saved; None is all, which takes longer."""
    tasks_per_batch: int = Field(default=32, gt=0)
    """How many tasks a step meets."""
    rows_per_task: int = Field(default=4, gt=0)
    """Rows of a task in one step."""
    tokens_per_forward: int | None = Field(default=None, gt=0)
    """A step takes as many forwards as it needs; None is 2048 on a CPU, 16384 elsewhere."""
    max_length: int | None = Field(default=None, gt=1)
    """A longer row is an error; None is the window of the base."""
    eval_tasks: int = Field(default=64, gt=0)
    """Tasks that an evaluation looks at."""
    eval_rows: int = Field(default=4, gt=0)
    """Rows of each task that it is measured on."""


class _Group(NamedTuple):
    """Rows that share one request, and the adapter that is named after their task, if any."""

    request: str
    rows: list[Encoded]
    wanted: int | None


def train_blend(recipe: BlendRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns the router folder, `output_dir/blend`. A `host` given replaces `base`.

    Raises MissingFileError for a library without adapters, ConfigError for an adapter without description, no
    task or a folder of another recipe, BaseMismatchError and UnknownNameError for a library of another base,
    UnknownNameError for a split that does not exist, PromptTooLongError for a row over `max_length`.
    """
    library = load_library(recipe.library)
    tasks = _choose(recipe, library)
    labels = _labels(recipe, library, tasks)
    with Run(recipe.run, recipe, resume=resume, data_hash=hash_tasks(tasks)) as run:
        targets = targets_for(library.adapters)
        host = host or load_base(recipe, run.accelerator.device, target_modules=targets, dtype=recipe.dtype)
        bank = library.bank(host)
        encoder = Cached(build_encoder(recipe.encoder, host=host), recipe.encoder_cache)
        blend = Blend(
            encoder,
            labels,
            hidden=recipe.hidden,
            temperature=recipe.temperature,
            top_k=recipe.top_k,
            seed=recipe.run.seed,
        ).to(host.device)
        draw_groups, test = _rows(recipe, host, tasks, bank)
        tokens = tokens_of_a_forward(host, recipe.tokens_per_forward)
        learner = Learner(run, host, recipe.optimizer, blend)
        metrics: dict[str, float] = {}
        for done in learner.left():
            groups = draw_groups(run.draw(done))
            learner.step(done, _backward(host, blend, bank, groups, tokens, run.accelerator))
            if run.is_due("eval", done) and run.accelerator.is_main_process:
                metrics = measure(host, blend, bank, test, tokens=tokens)
                run.log(done, metrics)
            learner.save(done)
        folder = run.folder / "blend"
        if run.accelerator.is_main_process:
            metrics = metrics or measure(host, blend, bank, test, tokens=tokens)
            facts = {"library": recipe.library, "data_hash": hash_tasks(tasks), "metrics": metrics}
            blend.save_pretrained(folder, base=host.fingerprint, provenance=provenance(recipe, **facts))
    return folder


def _backward(
    host: AbstractHost,
    blend: Blend,
    bank: Bank,
    groups: Sequence[_Group],
    tokens: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Add the gradient of one step, and say what it saw; over several processes the mean is over all."""
    weight_GK = blend.weights([group.request for group in groups], bank.names)
    # The forwards meet here, so that each frees its memory before the next one.
    given_GK = weight_GK.detach().requires_grad_()
    forwards = list(split_rows([group.rows for group in groups], tokens=tokens, pad_id=pad_id(host)))
    asked = torch.tensor(sum(int((f.packed.targets_BT >= 0).sum()) for f in forwards), device=host.device)
    asked = int(sum_over_processes(asked, accelerator))
    loss = torch.zeros((), device=host.device)
    for packed, start, end, index_B in forwards:
        mixture = _mixture(bank, given_GK[start:end], index_B)
        with accelerator.autocast():
            said = answer_logits(host, mixture, packed)
            part = said.nats() / asked
        accelerator.backward(part)
        loss += part.detach()
    assert given_GK.grad is not None
    weight_GK.backward(given_GK.grad)
    sum_gradients(blend, accelerator)
    return {"loss": float(sum_over_processes(loss, accelerator)), **_choices(weight_GK.detach(), groups)}


@torch.no_grad()
def measure(
    host: AbstractHost, blend: Blend, bank: Bank, groups: Sequence[_Group], *, tokens: int
) -> dict[str, float]:
    """What a blend reaches on rows, and how it chooses.

    Losses are nats per answer token, `base/loss` without any adapter; `followed` is the share of answers, 0
    to 1, that greedy decoding would give; `routed` the share of requests, of tasks that an adapter is named
    after, whose largest weight is that adapter's; `entropy` that of the weights, in nats.
    """
    weight_GK = blend.weights([group.request for group in groups], bank.names)
    loss, base, places, right, total = 0.0, 0.0, 0, 0, 0
    for packed, start, end, index_B in split_rows(
        [group.rows for group in groups], tokens=tokens, pad_id=pad_id(host)
    ):
        mixture = _mixture(bank, weight_GK[start:end], index_B)
        said, plain = answer_logits(host, mixture, packed), answer_logits(host, None, packed)
        loss += float(said.nats())
        base += float(plain.nats())
        places += len(said.targets_N)
        correct, count = packed.count_right(said.logits_NV, said.targets_N)
        right, total = right + correct, total + count
    return {
        "test/loss": loss / places,
        "base/loss": base / places,
        "test/followed": right / total,
        **{f"test/{name}": value for name, value in _choices(weight_GK, groups).items()},
    }


def _mixture(bank: Bank, weight_GK: Tensor, index_B: Tensor) -> Mixture:
    """Line i blends by the weights of group `index_B[i]`; adapters that no group weighs cost nothing."""
    used_U = (weight_GK != 0).any(0).nonzero()[:, 0]
    if len(used_U) < len(bank):
        bank, weight_GK = bank.select(used_U), weight_GK[:, used_U]
    return Mixture.dense(bank, weight_GK[index_B.to(weight_GK.device)])


def _choices(weight_GK: Tensor, groups: Sequence[_Group]) -> dict[str, float]:
    best = weight_GK.argmax(-1).tolist()
    known = [k == group.wanted for k, group in zip(best, groups, strict=True) if group.wanted is not None]
    entropy = -(weight_GK * weight_GK.clamp_min(1e-30).log()).sum(-1).mean()
    return {**({"routed": sum(known) / len(known)} if known else {}), "entropy": float(entropy)}


def _labels(recipe: BlendRecipe, library: Library, tasks: Sequence[Task]) -> dict[str, str | tuple[str, ...]]:
    """The label of every adapter; that of its card where no task has its name."""
    named = {task.name: task.descriptions for task in tasks} if recipe.labels == "wordings" else {}
    return {name: named.get(name, label) for name, label in library.descriptions().items()}


def _choose(recipe: BlendRecipe, library: Library) -> list[Task]:
    first = recipe.tasks if isinstance(recipe.tasks, int) else None
    tasks = list(load_split(recipe.data, recipe.split, first))
    if recipe.tasks == "library":
        tasks = [task for task in tasks if task.name in library.labels]
    if not tasks:
        raise ConfigError(
            f"no task of the split {recipe.split} is named after an adapter of {recipe.library}"
        )
    return tasks


def _rows(
    recipe: BlendRecipe, host: AbstractHost, tasks: Sequence[Task], bank: Bank
) -> tuple[Callable[[int], list[_Group]], list[_Group]]:
    """The groups of a step, by its number, and those to measure on, in wordings not trained on."""
    longest = recipe.max_length or host.window or sys.maxsize
    places = {name: k for k, name in enumerate(bank.names)}
    sampler = TaskSampler(
        tasks,
        tasks_per_batch=recipe.tasks_per_batch,
        rows_per_task=recipe.rows_per_task,
        seed=recipe.run.seed,
    )

    encode = row_encoder(host.tokenizer, describe=recipe.describe, max_length=longest)
    encode_longest(encode, tasks)

    def grouped(task: Task, description: str, rows: Sequence[Row]) -> list[_Group]:
        encoded = [encode(row, description) for row in rows]
        wanted = places.get(task.name)
        if recipe.request == "description":
            return [_Group(description, encoded, wanted)]
        return [_Group(row.prompt, [one], wanted) for row, one in zip(rows, encoded, strict=True)]

    def draw_groups(draw: int) -> list[_Group]:
        return [g for v in sampler.draw(draw) for g in grouped(v.task, v.description, v.rows)]

    # Spread evenly: a source may begin with its simplest tasks.
    test = [
        group
        for task in tasks[:: -(-len(tasks) // recipe.eval_tasks)]
        if task.test
        for group in grouped(
            task, (task.unseen_descriptions or task.descriptions)[0], task.test[: recipe.eval_rows]
        )
    ]
    if not test:
        raise ConfigError("there is no row to measure on; the tasks have no test rows")
    return draw_groups, test
