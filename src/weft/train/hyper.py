"""Train a hypernetwork end to end: descriptions in, adapters out, loss on the tasks' answers.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3.2, supervised fine-tuning:

    min_theta  E_task E_description  CE(answer | prompt; base + hyper_theta(description))

Each step generates one adapter for each of several tasks and packs each task's rows into one line, so one
frozen forward serves all of them. The description is not in the prompt: what is learned goes through the
generated weights.

Departs from the paper in: many tasks and several rows of each per step; no label smoothing or input noise;
the saved network is the one with the best steering margin (right description minus another task's) on
validation tasks, since a network collapsed to one constant adapter would win on validation loss.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weft.config import Config
from weft.embed import Cached, EncoderConfig, build_encoder
from weft.errors import ConfigError
from weft.files import nearest
from weft.host import Host, short_names
from weft.hyper import HyperNetwork, T2LConfig, average, build_t2l
from weft.tasks import Encoded, Row, Task, hash_tasks, render, samplers_by_category
from weft.tasks.source import Data, load_splits
from weft.train.answers import answer, load_base
from weft.train.optimizer import OptimizerConfig, build_optimizers, build_schedulers
from weft.train.packing import Packed, pack
from weft.train.run import Run, RunConfig
from weft.types import Bank, Description, Mixture


class HyperRecipe(Config):
    """`weft train hyper RECIPE`."""

    run: RunConfig
    base: str
    """Embedded name, folder or hub id of the frozen base."""
    data: Data
    select_on: str = "validation"
    """The split whose steering margin chooses the network that is saved."""
    encoder: EncoderConfig
    encoder_cache: str = "runs/encoder-cache"
    network: T2LConfig = T2LConfig()
    init: str | None = None
    """Folder of a hypernetwork of the same encoder and network to start from; drawn anew unless given."""
    target_modules: str | list[str] = "all-linear"
    attn_implementation: str = "sdpa"
    """As in transformers; on a CPU and short rows `eager` takes a quarter less time."""
    soup: tuple[str, ...] = ()
    """Folders of hypernetworks of the same network; the mean of their weights and the trained ones is saved
    as `output_dir/soup`."""
    optimizer: OptimizerConfig = OptimizerConfig()
    tasks_per_batch: int = Field(default=32, gt=1)
    rows_per_task: int = Field(default=8, gt=0)
    category_shares: dict[str, int] = {}
    """Tasks per step of each category, in place of `tasks_per_batch` drawn from all alike."""
    max_length: int = Field(default=256, gt=1)
    """Longest row in tokens; a longer one is an error, never cut."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved file; a network runs in float32."""
    name: str = "hypernetwork"


def train_hyper(recipe: HyperRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns the folder of what was made.

    `output_dir/hypernetwork` is the trained one, `output_dir/soup` its average with others where the recipe
    asks for it. A `host` that is given takes the place of loading `base`.

    Raises ConfigError for a `select_on` that the data lacks.
    """
    torch.manual_seed(recipe.run.seed)
    splits = load_splits(recipe.data)
    if recipe.select_on not in splits:
        known = ", ".join(splits)
        raise ConfigError(
            f"no split {recipe.select_on!r}{nearest(recipe.select_on, splits)}; there are {known}"
        )
    train, validation = splits["train"], splits[recipe.select_on]
    with Run(recipe.run, recipe, resume=resume) as run:
        host = host or load_base(
            recipe.base,
            dtype="float32",
            device=run.accelerator.device,
            target_modules=recipe.target_modules,
            attn_implementation=recipe.attn_implementation,
        )
        hyper = _build(recipe, host, train)
        network = hyper.network.to(run.accelerator.device)
        samplers = samplers_by_category(
            train,
            recipe.category_shares,
            tasks_per_batch=recipe.tasks_per_batch,
            rows_per_task=recipe.rows_per_task,
            seed=recipe.run.seed,
        )
        optimizers = build_optimizers(recipe.optimizer, network.named_parameters())
        schedulers = build_schedulers(recipe.optimizer, optimizers, recipe.run.max_steps)
        start = run.restore(network, optimizers, schedulers)
        folder = run.folder / "hypernetwork"
        best = run.best("margin")
        for done in range(start + 1, recipe.run.max_steps + 1):
            torch.manual_seed(recipe.run.seed * 1_000_003 + done)  # dropout, the same after a resume
            draw = (done - 1) * run.accelerator.num_processes + run.accelerator.process_index
            draws = [task for sampler in samplers for task in sampler.draw(draw)]
            packed = _pack_rows(host, [task.rows for task in draws], recipe.max_length)
            with run.accelerator.autocast():
                bank = hyper.generate([Description(task.description) for task in draws])
                loss = _loss(host, bank, packed)
            run.accelerator.backward(loss)
            if run.accelerator.num_processes > 1:
                for parameter in network.parameters():
                    parameter.grad = cast(Tensor, run.accelerator.reduce(parameter.grad, "mean"))
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.optimizer.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            for scheduler in schedulers:
                scheduler.step()
            if run.is_due("logging", done):
                rate = schedulers[0].get_last_lr()[0]
                run.log(done, {"loss": loss.item(), "grad_norm": float(norm), "learning_rate": rate})
            if run.is_due("eval", done):
                metrics = steering(host, hyper, validation, max_length=recipe.max_length)
                run.log(done, metrics)
                if metrics["margin"] > best and run.accelerator.is_main_process:
                    best = metrics["margin"]
                    hyper.provenance |= {"metrics": metrics, "step": done}
                    hyper.save_pretrained(folder, dtype=getattr(torch, recipe.save_dtype))
            if run.is_due("save", done):
                run.save(done, network, optimizers, schedulers)
        if recipe.soup and run.accelerator.is_main_process:
            folder = _cook(recipe, host, hyper, folder, validation)
    return folder


def _cook(
    recipe: HyperRecipe, host: Host, hyper: HyperNetwork, trained: Path, validation: Sequence[Task]
) -> Path:
    """The average of the best network of this run and those of others, measured and saved."""
    parts = [HyperNetwork.from_pretrained(folder, host=host) for folder in (trained, *recipe.soup)]
    made = average(parts)
    made.encoder = hyper.encoder  # the one that remembers vectors
    metrics = steering(host, made, validation, max_length=recipe.max_length)
    told = [{"name": part.name, **part.provenance} for part in parts]
    made.provenance = {**parts[0].provenance, "metrics": metrics, "soup": told}
    folder = trained.with_name("soup")
    made.save_pretrained(folder, dtype=getattr(torch, recipe.save_dtype))
    return folder


def _build(recipe: HyperRecipe, host: Host, train: Sequence[Task]) -> HyperNetwork:
    encoder = Cached(build_encoder(recipe.encoder, host=host), recipe.encoder_cache)
    start = None if recipe.init is None else HyperNetwork.from_pretrained(recipe.init, host=host)
    network = start.network if start else build_t2l(recipe.network, host.sites, dim=encoder.dim)
    if network.config != recipe.network or set(network.sites) != set(host.sites):
        raise ConfigError(f"{recipe.init} has another network or other sites than this recipe; take its own")
    if start and start.encoder.identity != encoder.identity:
        raise ConfigError(f"{recipe.init} reads vectors of {start.encoder.identity}; take that encoder")
    provenance = {
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.run.seed,
        "base_model": recipe.base,
        "target_modules": short_names(host.sites, host.module),
        "data_hash": hash_tasks(train),
    }
    hyper = HyperNetwork(encoder, network, base=host.fingerprint, name=recipe.name, provenance=provenance)
    e_ND = hyper.encode([Description(text) for task in train for text in task.descriptions])
    if start is None:
        hyper.fit_normaliser(e_ND)
    return hyper


def _pack_rows(host: Host, rows: Sequence[Sequence[Row]], max_length: int) -> Packed:
    """One line per task: its rows side by side, each blind to the others, no description anywhere."""
    groups: list[list[Encoded]] = [
        [render(host.tokenizer, row, max_length=max_length) for row in rows_of_task] for rows_of_task in rows
    ]
    return pack(groups, pad_id=host.tokenizer.pad_token_id, share_prefix=False)


def _loss(host: Host, bank: Bank, packed: Packed) -> Tensor:
    """Mean over tasks of the mean loss of their answer tokens, in nats."""
    said = answer(host, Mixture.rows(bank, range(len(bank))), packed)
    loss_N = F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="none")
    loss_K = loss_N.new_zeros(len(bank)).index_add(0, said.line_N, loss_N)
    return (loss_K / torch.bincount(said.line_N, minlength=len(bank))).mean()


@torch.no_grad()
def steering(
    host: Host, hyper: HyperNetwork, tasks: Sequence[Task], *, max_length: int, rows: int = 4, batch: int = 32
) -> dict[str, float]:
    """Shares of test answers in [0, 1] that greedy decoding gets right, and their difference, the margin.

    `right` under the task's own description (an unseen wording where there is one), `other` under the
    description of the next task. An answer counts when each of its tokens is the likeliest one.
    """
    texts = [(task.unseen_descriptions or task.descriptions)[0] for task in tasks]
    training = hyper.training
    hyper.eval()
    shares = {}
    for name, shift in (("right", 0), ("other", 1)):
        right = total = 0
        for start in range(0, len(tasks), batch):
            chunk = range(start, min(start + batch, len(tasks)))
            bank = hyper.generate([Description(texts[(i + shift) % len(tasks)]) for i in chunk])
            packed = _pack_rows(host, [tasks[i].test[:rows] for i in chunk], max_length)
            said = answer(host, Mixture.rows(bank, range(len(bank))), packed)
            correct, count = packed.count_right(said.logits_NV, said.targets_N)
            right, total = right + correct, total + count
        shares[name] = right / max(total, 1)
    hyper.train(training)
    return {**shares, "margin": shares["right"] - shares["other"]}
