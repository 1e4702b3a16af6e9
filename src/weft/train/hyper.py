"""Train a hypernetwork end to end: descriptions in, adapters out, loss on the tasks' answers.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3.2, supervised fine-tuning:

    min_theta  E_task E_description  CE(answer | prompt; base + hyper_theta(description))

Each step generates one adapter for each of several tasks and packs each task's rows into one line, so one
frozen forward serves all of them. The description is not in the prompt unless a recipe puts it there: what is
learned goes through the generated weights. With `kl_weight` w the loss is

    CE + w * KL(base that reads the description || base + hyper_theta(description))

context distillation (Snell et al. 2022, arXiv 2209.15189) on the answer's tokens.

Departs from the paper in: many tasks and several rows of each per step; no label smoothing or input noise;
the network in `hypernetwork` is the one that steers best on validation tasks, by 1 - (loss under the right
description) / (loss under another task's). A network collapsed to one constant adapter has 0 there and would
win on validation loss; the plain difference of the two falls again once the right loss is near 0. The last
network lies beside it in `last`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from weft.embed import Cached, Parts, build_encoder
from weft.errors import BaseMismatchError, ConfigError
from weft.host import Host
from weft.hyper import HyperNetwork, average, build_t2l
from weft.rows import AbstractHost
from weft.tasks import Draw, Task, evenly, fit_task, hash_tasks, render, samplers_by_category
from weft.tasks.source import Data, load_splits
from weft.train.answer_logits import sum_gradients
from weft.train.cues import CueConfig, make_cue
from weft.train.forecast import forecast
from weft.train.learner import Learner
from weft.train.packing import Packed
from weft.train.reach import keep_reach
from weft.train.recipe import AbstractNetworkRecipe, load_base, provenance
from weft.train.run import Run
from weft.train.steering import loss, pack_draws, steering
from weft.train.targets import names_of, sites_for
from weft.types import AbstractEncoder, Cue


class HyperRecipe(AbstractNetworkRecipe):
    """`weft train hyper RECIPE`."""

    data: Data
    select_on: str = "validation"
    """The split whose steering, 1 less right over other, chooses the network that is saved."""
    cue: CueConfig = CueConfig()
    """What the encoder is shown of a task."""
    init: str | None = None
    """Folder of a hypernetwork of the same encoder and network to start from; drawn anew unless given."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen base; the hypernetwork stays in float32."""
    gradient_checkpointing: bool = False
    """Recompute the base's layers in the backward: about a third more time for far less memory."""
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    """Batches whose gradients are added up before the weights move."""
    tokens_per_forward: int | None = Field(default=None, gt=0)
    """Most tokens, padding counted, that a batch puts through the base at once; tasks of like length go
    together. A task's rows stay in one piece. Everything at once unless given."""
    soup: tuple[str, ...] = ()
    """Folders of hypernetworks of the same network; the mean of their weights and the trained ones is saved
    as `output_dir/soup`."""
    tasks_per_batch: int = Field(default=32, gt=1)
    """How many tasks a step meets, one generated adapter for each."""
    rows_per_task: int = Field(default=8, gt=0)
    """Rows of a task in one step."""
    category_shares: dict[str, int] = {}
    """Tasks per step of each category, in place of `tasks_per_batch` drawn from all alike. Tasks of other
    categories are left out, and out of the evaluation too where the split has any of these."""
    description_in_prompt: bool = False
    """Let the adapted base read the description too, in training and evaluation."""
    kl_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How much the adapted base is drawn to what the base itself says when it reads the description."""
    max_length: int = Field(default=256, gt=1)
    """Longest row in tokens; longer ones are left out and counted, never cut."""
    eval_tasks: int = Field(default=64, gt=1)
    """Validation tasks that an evaluation looks at, evenly spread over them."""
    eval_rows: int = Field(default=4, gt=0)
    """Test rows of each of them."""


def train_hyper(recipe: HyperRecipe, *, host: AbstractHost | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns the folder of what was made.

    `output_dir/hypernetwork` is the best one, `output_dir/last` the last, `output_dir/soup` the best one's
    average with others where the recipe asks for it. A `host` that is given takes the place of loading
    `base`.

    Raises ConfigError for a `select_on` that the data lacks, and when no task has enough rows that fit.
    """
    torch.manual_seed(recipe.run.seed)
    splits = load_splits(recipe.data, recipe.select_on)
    with Run(recipe.run, recipe, resume=resume, data_hash=hash_tasks(splits["train"])) as run:
        device, targets = run.accelerator.device, recipe.target_modules
        host = host or load_base(recipe, device, target_modules=targets, dtype=recipe.dtype)
        if recipe.gradient_checkpointing and isinstance(host, Host):  # stages do so anyway
            host.gradient_checkpointing_enable()
        train = _fitting(host, splits["train"], recipe, run)
        validation = evenly(_fitting(host, splits[recipe.select_on], recipe, run), recipe.eval_tasks)
        hyper = _build(recipe, host, train)
        network = hyper.network.to(host.device)
        samplers = samplers_by_category(
            train,
            recipe.category_shares,
            tasks_per_batch=recipe.tasks_per_batch,
            rows_per_task=recipe.rows_per_task,
            seed=recipe.run.seed,
        )
        first = [task for sampler in samplers for task in sampler.draw(0)]
        packs = [packed for _, packed in _parts(host, first, recipe)]
        steps = recipe.run.max_steps
        batches = recipe.gradient_accumulation_steps
        recomputed = recipe.gradient_checkpointing
        run.say(forecast(host, network, packs, steps=steps, batches=batches, recomputed=recomputed))
        learner = Learner(run, host, recipe.optimizer, network)
        folder, last = run.folder / "hypernetwork", run.folder / "last"
        best = run.best("steering")
        for done in learner.left():
            mean = 0.0
            for part in range(recipe.gradient_accumulation_steps):
                number = (done - 1) * recipe.gradient_accumulation_steps + part
                draw = number * run.accelerator.num_processes + run.accelerator.process_index
                draws = [task for sampler in samplers for task in sampler.draw(draw)]
                for chunk, packed in _parts(host, draws, recipe):
                    with run.accelerator.autocast():
                        bank = hyper.generate([_cue(recipe, task, str(number)) for task in chunk])
                        nats = loss(host, bank, packed, chunk, kl_weight=recipe.kl_weight)
                    part_nats = nats * (len(chunk) / len(draws) / batches)
                    run.accelerator.backward(part_nats / run.accelerator.num_processes)
                    mean += part_nats.item()
            sum_gradients(network, run.accelerator)
            learner.step(done, {"loss": mean})
            if run.is_due("eval", done):
                metrics = _measure(recipe, host, hyper, validation)
                run.log(done, metrics)
                if metrics["steering"] > best and run.accelerator.is_main_process:
                    best = metrics["steering"]
                    _save(hyper, folder, recipe, {"metrics": metrics, "step": done})
            if run.is_due("save", done):
                if run.accelerator.is_main_process:  # before the checkpoint, from which a killed run goes on
                    _save(hyper, last, recipe, {"step": done})
                learner.keep(done)
        if recipe.soup and run.accelerator.is_main_process:
            folder = _cook(recipe, host, hyper, folder, validation)
    return folder


def _save(hyper: HyperNetwork, folder: Path, recipe: HyperRecipe, told: dict[str, Any]) -> None:
    before = hyper.provenance
    hyper.provenance = before | told
    hyper.save_pretrained(folder, dtype=getattr(torch, recipe.save_dtype))
    hyper.provenance = before


def _fitting(host: AbstractHost, tasks: Sequence[Task], recipe: HyperRecipe, run: Run) -> list[Task]:
    """The tasks with those of their rows that fit; says once how much was left out."""
    kept, rows = [], 0
    tasks = [task for task in tasks if task.category in recipe.category_shares] or tasks
    for task in tasks:
        fitting, left_out = fit_task(host.tokenizer, task, max_length=recipe.max_length)
        rows += left_out
        if fitting is not None and fitting.train and fitting.test:
            kept.append(fitting)
    if len(kept) < 2:
        raise ConfigError(
            f"{len(kept)} of {len(tasks)} tasks have train and test rows of at most {recipe.max_length} "
            "tokens, two are needed; raise max_length"
        )
    if rows:
        run.say(
            f"left out {rows} rows of more than {recipe.max_length} tokens, and "
            f"{len(tasks) - len(kept)} of {len(tasks)} tasks that keep none"
        )
    return kept


def _parts(
    host: AbstractHost, draws: Sequence[Draw], recipe: HyperRecipe
) -> Iterator[tuple[list[Draw], Packed]]:
    """A batch in parts of at most `tokens_per_forward` tokens, tasks of like length together."""
    length = {id(draw): sum(len(render(host.tokenizer, row).ids) for row in draw.rows) for draw in draws}
    most = recipe.tokens_per_forward
    part: list[Draw] = []
    for draw in draws if most is None else sorted(draws, key=lambda draw: -length[id(draw)]):
        if most is not None and part and length[id(part[0])] * (len(part) + 1) > most:
            yield part, pack_draws(host, part, described=recipe.description_in_prompt)
            part = []
        part.append(draw)
    yield part, pack_draws(host, part, described=recipe.description_in_prompt)


def _measure(
    recipe: HyperRecipe, host: AbstractHost, hyper: HyperNetwork, tasks: Sequence[Task]
) -> dict[str, float]:
    described, cue = recipe.description_in_prompt, recipe.cue
    return steering(host, hyper, tasks, rows=recipe.eval_rows, described=described, cue=cue)


def _cook(
    recipe: HyperRecipe, host: AbstractHost, hyper: HyperNetwork, trained: Path, validation: Sequence[Task]
) -> Path:
    """The average of the best network of this run and those of others, measured and saved."""
    parts = [_open(folder, host) for folder in (trained, *recipe.soup)]
    made = average(parts)
    made.network.to(host.device)
    made.encoder = hyper.encoder  # the one that remembers vectors
    metrics = _measure(recipe, host, made, validation)
    told = [{"name": part.name, **part.provenance} for part in parts]
    made.provenance = {**parts[0].provenance, "metrics": metrics, "soup": told}
    folder = trained.with_name("soup")
    made.save_pretrained(folder, dtype=getattr(torch, recipe.save_dtype))
    return folder


def _build(recipe: HyperRecipe, host: AbstractHost, train: Sequence[Task]) -> HyperNetwork:
    if recipe.cue != CueConfig() and recipe.encoder.kind != "parts":
        raise ConfigError(f"examples are read by an encoder of kind parts, this one is {recipe.encoder.kind}")
    if recipe.cue.own_prompt and max(recipe.rows_per_task, recipe.eval_rows) > 1:
        raise ConfigError("a prompt that makes its own adapter needs rows_per_task 1 and eval_rows 1")
    encoder, sites = _remembering(recipe, host), sites_for(host, recipe.target_modules)
    start = None if recipe.init is None else _open(recipe.init, host)
    network = start.network if start else build_t2l(recipe.network, sites, dim=encoder.dim)
    if network.config != recipe.network or set(network.sites) != set(sites):
        raise ConfigError(f"{recipe.init} has another network or other sites than this recipe; take its own")
    if start and start.encoder.identity != encoder.identity:
        raise ConfigError(f"{recipe.init} reads vectors of {start.encoder.identity}; take that encoder")
    facts = provenance(recipe, placed=True, target_modules=names_of(host, sites), data_hash=hash_tasks(train))
    hyper = HyperNetwork(encoder, network, base=host.fingerprint, name=recipe.name, provenance=facts)
    told = [(task, text) for task in train for text in task.descriptions]
    cues = [_cue(recipe, Draw(0, task, text, task.train[:1]), f"start/{text}") for task, text in told]
    e_ND = hyper.encode(cues)
    if start is None:
        hyper.fit_normaliser(e_ND)
    keep_reach(hyper, train)
    return hyper


def _open(folder: str | Path, host: AbstractHost) -> HyperNetwork:
    """A hypernetwork for this base. Raises BaseMismatchError for one of another base."""
    if isinstance(host, Host):
        return HyperNetwork.from_pretrained(folder, host=host)
    hyper = HyperNetwork.from_pretrained(folder)
    if hyper.base != host.fingerprint:
        raise BaseMismatchError(f"{folder} is for base {hyper.base}, this host is {host.fingerprint}")
    return hyper


def _remembering(recipe: HyperRecipe, host: AbstractHost) -> AbstractEncoder:
    """The encoder, with a memory for the texts that it reads; one that reads states needs a local base."""
    local = host if isinstance(host, Host) else None
    if recipe.encoder.kind == "parts":
        inner = build_encoder(recipe.encoder.encoder, host=local)
        return Parts(Cached(inner, recipe.encoder_cache))
    if recipe.encoder.kind == "histograms":
        return build_encoder(recipe.encoder)  # costs less than its memory would
    return Cached(build_encoder(recipe.encoder, host=local), recipe.encoder_cache)


def _cue(recipe: HyperRecipe, draw: Draw, key: str) -> Cue:
    key = f"{recipe.run.seed}/{key}/{draw.task.name}"
    return make_cue(recipe.cue, draw.task, draw.description, draw.rows, key=key)
