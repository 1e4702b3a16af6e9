"""Train a mix: questions that need a text which has left the window and an operation at once.

    min_theta  E_question  CE(word, answer)    the word under the weights before the event, the answer after

with theta the speaker and the mix of `route/mix.py`. The sources stay frozen: a context network that has
pressed the document, a hypernetwork (or a stack) that was told one operation in words, and the adapter of
another operation from a library. A sign in the question says which one is meant.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from weft.config import Rank, Size
from weft.engine.mixer import Mixer, build_mix
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import ContextNetwork, HyperNetwork
from weft.route import load_library
from weft.route.library import select
from weft.route.mix import Mix, MixConfig, mixed, sizes
from weft.tasks.chat import inner_ids, plain_ids
from weft.tasks.facts.recalls import draw_fact_recall
from weft.tasks.functions.world import World as Functions
from weft.tasks.letters.recalls import draw_recall
from weft.tasks.letters.world import World
from weft.tasks.recall import Recall
from weft.train.answer_logits import language_model
from weft.train.learner import Learner
from weft.train.optimizer import OptimizerConfig
from weft.train.recipe import AbstractRecipe, load_base, provenance
from weft.train.run import Run
from weft.train.shift import split_head
from weft.train.streams import head_input
from weft.types import Bank, Description, Mixture

SOURCES: tuple[Literal["context", "stack", "library"], ...] = ("context", "stack", "library")
Token = Annotated[int, Field(ge=0)]


class MixRecipe(AbstractRecipe):
    """`weft train mix RECIPE`."""

    attn_implementation: Literal["eager", "sdpa"] = "eager"
    """As in transformers."""
    world: Literal["letters", "facts"] = "letters"
    """Words of letters and what is done to them, or facts in plain English and functions of any text,
    asked in the marks of ChatML."""
    target_modules: str | tuple[str, ...] = ("all-linear", "lm_head")
    """As in PEFT: where the speaker and the sources act, and the output head, which nothing changes."""
    context: str
    """Folder of a context network for that base."""
    stack: str
    """Folder of a hypernetwork for that base, a stack or a single one; its operation is asked for by `+`."""
    library: str
    """Adapters named after the operations that they do; asked for by `-`."""
    operations: tuple[str, ...] = Field(min_length=2)
    """Tasks of the world, all of them in the library."""
    words: Size = 1
    """Words or facts of a document."""
    sources: tuple[Literal["context", "stack", "library"], ...] = SOURCES
    """Those that act; the others give nothing."""
    fixed: Annotated[float, Field(gt=0, lt=2)] | None = None
    """Leave every weight at this, so that the speaker alone learns."""
    token: Token | Annotated[tuple[Token, ...], Field(min_length=1)]
    """The event: the token behind which an answer begins, ` >` of the letters tokenizer; or several."""
    network: MixConfig = MixConfig()
    speaker_rank: Rank = 8
    """Rank of the adapter that acts throughout, beside the sources."""
    speaker_scaling: float = Field(default=2.0, gt=0)
    """Its scaling, alpha / r."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-3)
    questions_per_batch: Size = 32
    """Questions of one step."""

    @field_validator("fixed", mode="before")
    @classmethod
    def _none_for_false(cls, value: object) -> object:
        return None if value is False else value  # as mixes of before say that no weight is fixed


class Lesson(NamedTuple):
    """A question as token ids, up to the event, and behind it."""

    prompt: list[int]
    word: list[int]
    """With the event at its end."""
    answer: list[int]
    """With the end of the text."""


class Told(NamedTuple):
    """What a batch said."""

    loss: Tensor
    """Mean nats per token."""
    right: float
    """Share of the tokens that were the likeliest ones."""
    written: list[bool]
    """Which questions have every token right: those that a greedy loop answers so."""


def train_mix(recipe: MixRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns `output_dir/mix`. A `host` given replaces `base`.

    Raises what loading raises, UnknownNameError for an operation that the library lacks, and ConfigError for
    a `token` that is not the one behind which answers begin.
    """
    tokens = (recipe.token,) if isinstance(recipe.token, int) else recipe.token
    with Run(recipe.run, recipe, resume=resume) as run:
        device = run.accelerator.device
        host = host or load_base(recipe, device, target_modules=recipe.target_modules)
        made = MixSources.load(recipe, host)
        sites, head = split_head(host)
        torch.manual_seed(recipe.run.seed)
        speaker, mix = build_mix(
            sites,
            head,
            recipe.network,
            sources=len(SOURCES),
            rank=recipe.speaker_rank,
            scaling=recipe.speaker_scaling,
        )
        if recipe.fixed is not None:
            mix.requires_grad_(False)
            mix.weigh.bias.fill_(math.log(recipe.fixed / (2 - recipe.fixed)))
        model = nn.ModuleDict({"speaker": speaker, "mix": mix}).to(host.device)
        learner = Learner(run, host, recipe.optimizer, model)
        for done in learner.left():
            key = f"{recipe.run.seed} train {done}"
            recalls = draw(recipe, key, recipe.questions_per_batch, training=True)
            lessons = [encode_recall(host, one) for one in recalls]
            _check_event(host, lessons, tokens)
            told = read_recalls(host, lessons, made.banks(recalls), speaker.bank(), mix)
            run.accelerator.backward(told.loss)
            learner.step(done, {"loss": float(told.loss.detach()), "followed": told.right})
            learner.save(done)
        folder = run.folder / "mix"
        mixer = Mixer(speaker, mix, SOURCES, tokens, host.fingerprint, provenance(recipe))
        if run.accelerator.is_main_process:
            mixer.save_pretrained(folder)
    return folder


class MixSources(NamedTuple):
    """What makes the adapters of a row, all frozen."""

    context: ContextNetwork
    stack: Bank
    """One adapter per operation, from its description."""
    library: Bank
    operations: tuple[str, ...]
    acting: tuple[str, ...]

    @classmethod
    @torch.no_grad()
    def load(cls, recipe: MixRecipe, host: Host) -> MixSources:
        """Raises what loading raises."""
        context = ContextNetwork.from_pretrained(recipe.context, host=host).requires_grad_(False)
        hyper = HyperNetwork.from_pretrained(recipe.stack, host=host).requires_grad_(False)
        cues = [Description(describe(recipe, name)) for name in recipe.operations]
        library = select(load_library(recipe.library).bank(host), list(recipe.operations))
        return cls(
            context,
            hyper.generate(cues).to(host.device),
            library.to(host.device, host.dtype),
            recipe.operations,
            recipe.sources,
        )

    @torch.no_grad()
    def banks(self, recalls: Sequence[Recall]) -> list[Bank | None]:
        """One adapter per question and source; None for a source that does not act."""
        chunks = [list(self.context.chunks(self.context.tokens(one.document))) for one in recalls]
        pressed = self.context.press([chunk for of_one in chunks for chunk in of_one])
        known = self.context.gather(pressed, [len(of_one) for of_one in chunks])
        device = next(iter(self.library.a.values())).device
        places = [[self.operations.index(one.operations[k]) for one in recalls] for k in range(2)]
        plus, minus = (torch.tensor(of_sign, device=device) for of_sign in places)
        banks = (known, self.stack.select(plus), self.library.select(minus))
        return [bank if name in self.acting else None for name, bank in zip(SOURCES, banks, strict=True)]


def draw(recipe: MixRecipe, key: str, count: int, *, training: bool = False) -> list[Recall]:
    """So many questions; equal keys give equal ones. Only `training` ones have facts of the training."""
    rng, some = random.Random(key), recipe.operations
    if recipe.world == "facts":
        split = "train" if training else "validation"
        return [draw_fact_recall(rng, some, split=split, facts=recipe.words) for _ in range(count)]
    return [draw_recall(rng, some, words=recipe.words) for _ in range(count)]


def describe(recipe: MixRecipe, operation: str) -> str:
    """An operation in words. Raises ConfigError for one that its world does not have."""
    world = Functions() if recipe.world == "facts" else World()
    return world.find(operation).descriptions[0]


def encode_recall(host: Host, recall: Recall) -> Lesson:
    """Token ids of a question and what is to be written."""
    prompt = plain_ids(host.tokenizer, recall.prompt)
    word, answer = (inner_ids(host.tokenizer, text) for text in (recall.said, recall.answer))
    return Lesson(prompt, word, [*answer, host.tokenizer.eos_token_id])


def _check_event(host: Host, lessons: Sequence[Lesson], tokens: Sequence[int]) -> None:
    """Raise ConfigError unless the event is the last token before every answer, and stands nowhere else."""
    for lesson in lessons:
        *word, event = lesson.word
        if event not in tokens or any(token in tokens for token in (*word, *lesson.answer)):
            written = [*lesson.word, *lesson.answer]
            raise ConfigError(
                f"token {list(tokens)} should stand right before an answer and nowhere else in "
                f"{host.tokenizer.decode(written)!r}; here it is {event}"
            )


def read_recalls(
    host: Host, lessons: Sequence[Lesson], banks: Sequence[Bank | None], speaker: Bank, mix: Mix
) -> Told:
    """Read questions and words under the first weights, answers under those of the event; differentiable."""
    rows = len(lessons)
    size_BJS = torch.stack(
        [
            torch.zeros(rows, len(mix.sites)) if bank is None else sizes(bank, mix.sites).cpu()
            for bank in banks
        ],
        1,
    ).to(host.device)
    always = Mixture.of(speaker)
    cache = DynamicCache(config=language_model(host).config)
    # The event itself is read under the weights that it brings, as in the loop.
    first = [[*one.prompt, *one.word[:-1]] for one in lessons]
    second = [[one.word[-1], *one.answer[:-1]] for one in lessons]
    mixture = always + mixed(banks, mix(mix.before(rows), size_BJS), mix.sites)
    ids_BT, mask_BT = _padded(first, host.device)
    with head_input(language_model(host)) as heard:
        said = host(ids_BT, mixture, mask_BT=mask_BT, cache=cache)
    last_B = mask_BT.sum(1) - 1
    hidden_BH = heard[0][torch.arange(rows, device=host.device), last_B]
    logits, targets = [], []
    for row, one in enumerate(lessons):
        start = len(one.prompt) - 1
        logits.append(said.logits[row, start : start + len(one.word)])
        targets += one.word
    mixture = always + mixed(banks, mix(mix.vector(hidden_BH), size_BJS), mix.sites)
    more_BT, fresh_BT = _padded(second, host.device)
    said = host(more_BT, mixture, mask_BT=torch.cat([mask_BT, fresh_BT], 1), cache=cache)
    for row, one in enumerate(lessons):
        logits.append(said.logits[row, : len(one.answer)])
        targets += one.answer
    logits_NV, target_N = torch.cat(logits).float(), torch.tensor(targets, device=host.device)
    right_N = logits_NV.argmax(-1) == target_N
    # The words of all questions come first, then their answers.
    parts = right_N.split([*(len(one.word) for one in lessons), *(len(one.answer) for one in lessons)])
    written = [
        bool(word.all() and answer.all()) for word, answer in zip(parts[:rows], parts[rows:], strict=True)
    ]
    return Told(F.cross_entropy(logits_NV, target_N), float(right_N.float().mean()), written)


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    ids_BT = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask_BT = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    return ids_BT.to(device), mask_BT.to(device)
