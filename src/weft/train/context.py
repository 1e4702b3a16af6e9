"""Train a network that presses texts into weights: what is said with a text at hand is said without it.

Context distillation, amortised over texts (Doc-to-LoRA, Charakorn et al. 2026, arXiv 2602.15902, section 3):

    student = base + network(document), told the question
    teacher = the same base, told document and question
    loss = - sum_{v in top-k of teacher} p_teacher(v) log p_student(v)  +  completion * CE(answer)
           + reconstruction * CE(document | base + network(document))

Documents are the descriptions of tasks, questions their rows; or passages of plain texts, where the question
is to go on. Of some documents only what leaves a window is pressed, and questions stand behind what stays, as
the window controller presents them. The number of facts grows by a curriculum: many at once stay at chance
until few are learned.
Departs from the paper in: answers are given, not drawn from the teacher; the network with the best margin
(right document minus another one) on validation tasks is kept.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from weft.config import Config, Size
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork
from weft.rows import AbstractHost
from weft.tasks import Encoded, Task, hash_tasks, render, render_raw, samplers_by_category
from weft.tasks.batch import TaskSampler, pad_id
from weft.tasks.source import Source, load_splits
from weft.train.answer_logits import answer_logits
from weft.train.kept_states import KeptStates
from weft.train.learner import Learner
from weft.train.lessons import (
    Lesson,
    PassagesConfig,
    encode_texts,
    lesson_in_window,
    lesson_of_task,
    lesson_of_text,
)
from weft.train.packing import Packed, pack
from weft.train.recipe import AbstractRecipe, load_base, provenance
from weft.train.run import Run
from weft.types import Bank, Mixture

_NONE: Mapping[str, int] = MappingProxyType({})


class WindowedConfig(Config):
    """Documents read through a window: what leaves it is pressed, questions stand behind what stays."""

    category_shares: dict[str, int] = Field(min_length=1)
    """Documents per step of each category."""
    least: Size
    """Tokens of the smallest window, the question among them; each document has one drawn up to `most`."""
    most: Size
    """Tokens of the largest."""

    @model_validator(mode="after")
    def _in_order(self) -> WindowedConfig:
        if self.least > self.most:
            raise ValueError(f"least is {self.least} and most is {self.most}; give least first")
        return self


class Stage(Config):
    """A part of a curriculum."""

    until: float = Field(gt=0, le=1)
    """Share of all steps at which it ends."""
    category_shares: dict[str, int]
    """Documents per step of each category; all tasks alike where there is none."""
    silence: float = Field(default=0.0, ge=0)
    """Price of a chunk that is heard, for a network with a gate: the mean factor is added to the loss."""
    unrelated: int = Field(default=0, ge=0)
    """Questions per step that no document is about, under the weights of one each."""
    unanswered: int = Field(default=0, ge=0)
    """Documents per step whose weights are asked a question like their own that they do not answer."""
    windowed: WindowedConfig | None = None
    """Documents beside these that are read through a window."""


_PLAIN = Stage(until=1.0, category_shares={})


class ContextRecipe(AbstractRecipe):
    """`weft train context RECIPE`; the base also reads the documents."""

    data: Source | None = Field(default=None, discriminator="kind")
    """Tasks whose descriptions are documents and whose rows are questions."""
    passages: PassagesConfig | None = None
    """In place of tasks, or beside them."""
    select_on: str = "validation"
    """The split whose margin chooses the network that is saved."""
    network: ContextConfig = ContextConfig()
    target_modules: str | list[str] = ["down_proj", "o_proj"]
    """Modules that get the adapters, as in PEFT."""
    curriculum: tuple[Stage, ...] = ()
    """Of `data`; one stage over all tasks alike unless given."""
    documents_per_batch: Size = 32
    """Documents of one step."""
    whitening_steps: Size = 8
    """The first steps, on whose documents what the sites read is whitened."""
    keep_states: bool = False
    """Keep what the base makes of documents, and of questions below the first adapted layer: those met again
    cost the layers above alone. Memory for time, where they are few."""
    raw: bool = False
    """Rows are plain texts to go on with, without the chat template of the base, and have no end."""
    rows_per_document: Size = 4
    """Questions about each of them."""
    max_length: Size = 512
    """Longest row in tokens, its document included; of one read through a window, the question alone."""
    top_k: Size = 16
    """Tokens of the base's own distribution that are distilled at each place."""
    distillation: float = Field(default=1.0, ge=0)
    """Weight of the distance to the base that reads the document."""
    completion: float = Field(default=0.0, ge=0)
    """Weight of the loss on the answers themselves."""
    reconstruction: float = Field(default=0.0, ge=0)
    """Weight of the loss of writing the document down again."""
    unrelated: Source | None = Field(default=None, discriminator="kind")
    """Tasks whose rows no document is about, told in the prompt; see the stages of the curriculum."""
    unrelated_weight: float = Field(default=1.0, ge=0)
    """Of the distance to what the bare base says of them."""
    unanswered_weight: float = Field(default=1.0, ge=0)
    """Of the same distance where a document does not answer: a name that it does not hold."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved file; a network runs in float32."""
    name: str = "context"
    """What the network is called in its folder's config."""


class _Draws(NamedTuple):
    """A stage and where its documents come from."""

    stage: Stage
    whole: list[TaskSampler]
    windowed: list[TaskSampler]


def train_context(recipe: ContextRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns `output_dir/context`, a context network.

    A `host` that is given takes the place of loading `base`. Raises ConfigError for a recipe without
    documents or a loss, a split that the data lacks, texts that are too short, a price of silence without a
    gate, or a document of which nothing leaves its window.
    """
    torch.manual_seed(recipe.run.seed)
    if recipe.data is None and recipe.passages is None:
        raise ConfigError("there is nothing to read; give data or passages")
    if not (recipe.distillation or recipe.completion or recipe.reconstruction):
        raise ConfigError("there is no loss; give distillation, completion or reconstruction above 0")
    if recipe.network.gate is None and any(stage.silence for stage in recipe.curriculum):
        raise ConfigError("a price of silence is for a network with a gate; give network.gate")
    splits = {} if recipe.data is None else load_splits(recipe.data, recipe.select_on)
    train = splits.get("train", ())
    measured = [task for task in splits.get(recipe.select_on, ()) if task.test]
    if splits and not measured:
        raise ConfigError(f"there is no row to measure on; the tasks of {recipe.select_on} have no test rows")
    with Run(recipe.run, recipe, resume=resume, data_hash=hash_tasks(train)) as run:
        device = run.accelerator.device
        host = host or load_base(recipe, device, target_modules=recipe.target_modules)
        facts = provenance(recipe, placed=True, data_hash=hash_tasks(train))
        network = ContextNetwork(host, recipe.network, name=recipe.name, provenance=facts).to(host.device)
        plan = recipe.curriculum or (_PLAIN,)
        stages = [
            _Draws(
                stage,
                _samplers(recipe, train, stage.category_shares),
                [] if stage.windowed is None else _samplers(recipe, train, stage.windowed.category_shares),
            )
            for stage in plan
        ]
        asked = plan[-1].windowed
        windows = {} if asked is None else dict.fromkeys(asked.category_shares, asked.most)
        text = None if recipe.passages is None else encode_texts(host, recipe.passages)
        early = range(1, recipe.whitening_steps + 1)
        first = [one for step in early for one in _lessons(recipe, network, stages[-1], text, step)]
        network.fit_whitening([chunk for lesson in first for chunk in lesson.chunks])
        strange = () if recipe.unrelated is None else load_splits(recipe.unrelated)["train"]
        kept = KeptStates(network) if recipe.keep_states else None
        learner = Learner(run, host, recipe.optimizer, network)
        folder = run.folder / "context"
        best = run.best("margin")
        for done in learner.left():
            at = done / recipe.run.max_steps
            draws = next((one for one in stages if at <= one.stage.until), stages[-1])
            stage, lessons = draws.stage, _lessons(recipe, network, draws, text, done)
            key = f"{recipe.run.seed}/unrelated/{done}"
            aside = draw_unrelated(host, strange, min(stage.unrelated, len(lessons)), key, raw=recipe.raw)
            with run.accelerator.autocast():
                loss, told = _loss(recipe, network, lessons, aside, stage, kept)
            run.accelerator.backward(loss)
            learner.step(done, {"loss": loss.item(), **told})
            if run.is_due("eval", done):
                metrics = {"margin": float(done)}
                if splits:
                    metrics = recall(network, measured, windows=windows, raw=recipe.raw)
                run.log(done, metrics)
                if metrics["margin"] > best:
                    best = metrics["margin"]
                    network.provenance |= {"metrics": metrics, "step": done}
                    network.save_pretrained(folder, dtype=getattr(torch, recipe.save_dtype))
            learner.save(done)
    return folder


def _samplers(recipe: ContextRecipe, tasks: Sequence[Task], shares: dict[str, int]) -> list[TaskSampler]:
    if not tasks:
        return []
    return samplers_by_category(
        tasks,
        shares,
        tasks_per_batch=recipe.documents_per_batch,
        rows_per_task=recipe.rows_per_document,
        seed=recipe.run.seed,
    )


def _lessons(
    recipe: ContextRecipe,
    network: ContextNetwork,
    draws: _Draws,
    text: Tensor | None,
    step: int,
) -> list[Lesson]:
    lessons = [
        lesson_of_task(
            network,
            draw.description,
            draw.rows,
            max_length=recipe.max_length,
            raw=recipe.raw,
            unanswered=draw.task.unanswered[:1],
        )
        for sampler in draws.whole
        for draw in sampler.draw(step - 1)
    ]
    if (windowed := draws.stage.windowed) is not None:
        chance = random.Random(f"{recipe.run.seed}/windows/{step}")
        lessons += [
            lesson_in_window(
                network,
                draw.description,
                row,
                window=chance.randint(windowed.least, windowed.most),
                max_length=recipe.max_length,
                raw=recipe.raw,
            )
            for sampler in draws.windowed
            for draw in sampler.draw(step - 1)
            for row in draw.rows
        ]
    if text is not None and recipe.passages is not None:
        config, chance = recipe.passages, random.Random(f"{recipe.run.seed}/{step}")
        length = config.pressed + config.window + config.completion
        for _ in range(config.per_batch):
            first = int(chance.random() * (len(text) - length))
            lessons.append(lesson_of_text(network, config, text[first : first + length].tolist()))
    return lessons


def draw_unrelated(
    host: AbstractHost, tasks: Sequence[Task], count: int, key: str, *, raw: bool = False
) -> list[Encoded]:
    """Rows of tasks drawn by a key, each behind its task's description. Raises ConfigError for no tasks."""
    if count and not tasks:
        raise ConfigError("a stage asks unrelated questions; give the tasks in unrelated")
    chance = random.Random(key)
    rows = []
    for _ in range(count):
        task = chance.choice(tasks)
        row, wording = chance.choice(task.train), chance.choice(task.descriptions)
        rows.append((render_raw if raw else render)(host.tokenizer, row, description=wording))
    return rows


def adapters_of(network: ContextNetwork, lessons: Sequence[Lesson]) -> Bank:
    """One adapter per lesson's document; differentiable."""
    return network.hear_documents([lesson.chunks for lesson in lessons])[0]


def _loss(
    recipe: ContextRecipe,
    network: ContextNetwork,
    lessons: Sequence[Lesson],
    aside: Sequence[Encoded],
    stage: Stage = _PLAIN,
    kept: KeptStates | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Mean over answer tokens, in nats, and its parts; the first lessons' weights are asked `aside` too."""
    host, pad = network.host, pad_id(network.host)
    bank, open_K = network.hear_documents(
        [lesson.chunks for lesson in lessons], None if kept is None else kept.read
    )
    mixture = Mixture.rows(bank, range(len(lessons)))
    asked = [list(one.asked) for one in lessons]
    with nullcontext() if kept is None else kept.below(asked):
        said = answer_logits(host, mixture, pack(asked, pad_id=pad, share_prefix=False))
    log_NV = F.log_softmax(said.logits_NV.float(), -1)
    parts: dict[str, tuple[float, Tensor]] = {}
    if recipe.distillation:
        told = pack([list(one.told) for one in lessons], pad_id=pad)
        parts["distillation"] = recipe.distillation, _distance(recipe, host, told, log_NV)
    if recipe.completion:
        parts["completion"] = recipe.completion, F.nll_loss(log_NV, said.targets_N)
    if recipe.reconstruction:
        whole = [[Encoded([], [i for chunk in one.chunks for i in chunk])] for one in lessons]
        again = answer_logits(host, mixture, pack(whole, pad_id=pad, share_prefix=False))
        parts["reconstruction"] = (
            recipe.reconstruction,
            F.cross_entropy(again.logits_NV.float(), again.targets_N),
        )
    if stage.silence:
        parts["silence"] = stage.silence, open_K.mean()
    strange = [(place, one.unanswered) for place, one in enumerate(lessons) if one.unanswered]
    if strange := strange[: stage.unanswered]:
        rows = [list(several) for _, several in strange]
        packed = pack(rows, pad_id=pad, share_prefix=False)
        with nullcontext() if kept is None else kept.below(rows):
            apart = _apart(recipe, host, Mixture.rows(bank, [place for place, _ in strange]), packed)
        parts["unanswered"] = recipe.unanswered_weight, apart
    if aside:
        packed = pack([[row] for row in aside], pad_id=pad, share_prefix=False)
        apart = _apart(recipe, host, Mixture.rows(bank, range(len(aside))), packed)
        parts["unrelated"] = recipe.unrelated_weight, apart
    loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
    return loss, {name: part.item() for name, (_, part) in parts.items()}


def _apart(recipe: ContextRecipe, host: AbstractHost, mixture: Mixture, packed: Packed) -> Tensor:
    """How far the base under weights is from the bare one, on rows that both read alike."""
    log_NV = F.log_softmax(answer_logits(host, mixture, packed).logits_NV.float(), -1)
    return _distance(recipe, host, packed, log_NV)


def _distance(recipe: ContextRecipe, host: AbstractHost, told: Packed, log_NV: Tensor) -> Tensor:
    """Cross-entropy with the bare base's own likeliest tokens, where it reads these rows."""
    with torch.no_grad():
        p_NV = answer_logits(host, None, told).logits_NV.float().softmax(-1)
        p_Nk, index_Nk = p_NV.topk(min(recipe.top_k, p_NV.shape[1]))
    return -(p_Nk * log_NV.gather(1, index_Nk)).sum(1).mean()


@torch.no_grad()
def recall(
    network: ContextNetwork,
    tasks: Sequence[Task],
    *,
    windows: Mapping[str, int] = _NONE,
    batch: int = 64,
    raw: bool = False,
) -> dict[str, float]:
    """Shares of answers in [0, 1] that greedy decoding gets right from weights alone, in all and by category.

    Categories of `windows` are asked their first question through a window of so many tokens. `right` is
    under a task's own document, `other` under that of another one; `margin` is their difference.
    """
    host, pad = network.host, pad_id(network.host)
    training = network.training
    network.eval()
    right: dict[str, list[int]] = {}
    order = sorted(range(len(tasks)), key=lambda i: (i % 7, i))  # neighbours of mixed categories
    forwards = -(-len(tasks) // batch)
    for first in range(forwards):
        group = [tasks[i] for i in order[first::forwards]]  # as many in each, so that none is alone
        lessons = [
            lesson_in_window(
                network, task.descriptions[0], task.test[0], window=windows[task.category], raw=raw
            )
            if task.category in windows
            else lesson_of_task(network, task.descriptions[0], task.test, raw=raw)
            for task in group
        ]
        bank = adapters_of(network, lessons)
        for name, shift in (("", 0), ("other", 1)):
            for place, lesson in enumerate(lessons):
                packed = pack([list(lesson.asked)], pad_id=pad, share_prefix=False)
                said = answer_logits(host, Mixture.rows(bank, [(place + shift) % len(lessons)]), packed)
                correct, count = packed.count_right(said.logits_NV, said.targets_N)
                for key in [name] if name else ["right", f"right/{group[place].category}"]:
                    seen = right.setdefault(key, [0, 0])
                    seen[0], seen[1] = seen[0] + correct, seen[1] + count
    network.train(training)
    shares = {key: correct / max(count, 1) for key, (correct, count) in right.items()}
    return {**shares, "margin": shares["right"] - shares["other"]}
