"""Train a shift: streams whose task changes inside one answer, over a frozen base and a frozen library.

    min_theta  E_stream  CE(parts, control tokens) + g(t) CE(adapter, if told) + price P(control | no shift)

with theta the speaker and the network of `hyper/shift.py`. Curriculum: at first the library's adapter is told
for every part whose task it holds (weight `guide`, down to 0 at `guide_until`); then the answers alone say
what should act. Boundaries are given in training, since text is; what finds them is trained by it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from weft.config import Config, Rank, Size
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.host import Host, sites_of
from weft.host.pool import content
from weft.hyper.shift import Shift, ShiftConfig
from weft.hyper.shifter import Shifter
from weft.hyper.speaker import Speaker
from weft.route import load_library
from weft.tasks.functions.streams import FunctionStreams
from weft.tasks.letters.streams import LetterStreams
from weft.train.answer_logits import language_model
from weft.train.learner import Learner
from weft.train.optimizer import OptimizerConfig
from weft.train.recipe import AbstractRecipe, load_base, provenance
from weft.train.run import Run
from weft.train.streams import Pieces, Told, encode_stream, read_streams
from weft.train.told import read_told
from weft.types import Adapter, Bank, Site


class StreamsConfig(Config):
    """Which streams."""

    kind: Literal["letters", "functions"] = "letters"
    """Letters, whose lines name their tasks; or the functions world, where the inputs alone say which."""
    tasks: tuple[str, ...]
    """Tasks of that world, those that the library lacks among them."""
    seed: int = 0
    """Of the streams."""
    held_out: float = Field(default=0.25, gt=0, lt=1)
    """Share of the ordered pairs of tasks that training never has."""
    again: float = Field(default=0.2, ge=0, lt=1)
    """How often a line has the task of the line before it, so that nothing needs to change."""
    lengths: Annotated[tuple[int, ...], Field(min_length=1)] = (2, 3, 4)
    """Parts of a training stream; those of one step have as many."""
    lines: int = Field(default=6, ge=1)
    """Most lines of a training prompt; those beyond the parts are not answered. Functions have them only
    where an answer is cut."""
    cut: float = Field(default=0.0, ge=0, le=1)
    """How often a training answer is cut: its prompt asks for more, and no end is taught."""
    gap: int = Field(default=0, ge=0, le=4096)
    """Most positions left out between a prompt and its answer in training, drawn for each stream: an answer
    then stands where one of a longer stream would."""

    def build(self) -> LetterStreams | FunctionStreams:
        """The streams. Raises ConfigError for too many tasks, or an unknown one."""
        world = LetterStreams if self.kind == "letters" else FunctionStreams
        return world(
            self.tasks,
            seed=self.seed,
            held_out=self.held_out,
            again=self.again,
            lines=self.lines,
            cut=self.cut,
        )


class ShiftRecipe(AbstractRecipe):
    """`weft train shift RECIPE`."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base and the library; the network is trained in float32."""
    library: str
    """A folder of adapter folders, or one that ships with Weft."""
    adapters: tuple[str, ...] = ()
    """Names of those that it may blend; all unless given."""
    control: int = Field(ge=0)
    """Id of the control token: one that the tokenizer does not use."""
    data: StreamsConfig
    network: ShiftConfig = ShiftConfig()
    speaker_rank: Rank = 8
    """Rank of the adapter that teaches the base to write the control token."""
    speaker_modules: str = ""
    """What the speaker and written deltas act on: a pattern over whole paths, as in PEFT, such as that of the
    upper layers, below which no gradients are needed; all linear modules unless given."""
    speaker_scaling: float = Field(default=2.0, gt=0)
    """Its scaling, alpha / r."""
    budget: Rank = 8
    """Rank that generated deltas are cut back to while decoding."""
    max_shifts: int = Field(default=64, ge=0)
    """Most shifts in one answer."""
    guide: float = Field(default=0.5, ge=0)
    """Weight of the loss that shows which adapter a part needs, at the start."""
    guide_until: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps over which the guide goes down to 0."""
    told_until: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps in which the told adapters also act, all parts in one forward. Faster than
    part by part; the library has to hold every task of the streams, and deltas learn nothing then."""
    price: float = Field(default=0.1, ge=0)
    """Of the probability of a control token where no shift belongs."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-3)
    streams_per_batch: Size = 20
    """Streams of one step."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the file; it is read back into float32."""


def train_shift(recipe: ShiftRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns the folder, `output_dir/shift`. A `host` given replaces `base`.

    A host given must offer its output head as a site. Raises UnknownNameError for an adapter that the library
    lacks, ConfigError for streams that cannot be, a control token outside the vocabulary or a folder of
    another recipe, and what loading raises.
    """
    library = _choose(load_library(recipe.library).adapters, recipe.adapters)
    _check(recipe, [adapter.name for adapter in library])
    contents = tuple(content(adapter) for adapter in library)
    with Run(recipe.run, recipe, resume=resume, data_hash=" ".join(contents)) as run:
        host = host or load_with_head(recipe, run.accelerator.device)
        sites, head = speaker_sites(recipe, host)
        torch.manual_seed(recipe.run.seed)
        speaker = Speaker(
            sites, head, [recipe.control], rank=recipe.speaker_rank, scaling=recipe.speaker_scaling
        )
        network = Shift(recipe.network, sites, width=head.in_features, count=len(library))
        model = nn.ModuleDict({"speaker": speaker, "network": network}).to(host.device)
        bank = Bank.stack(library).to(host.device, host.dtype) if network.count else None
        places = {adapter.name: k for k, adapter in enumerate(library)}

        told_steps = round(recipe.told_until * recipe.run.max_steps)

        def read(step: int, batch: Sequence[Pieces]) -> Told:
            way = read_told if step < told_steps else read_streams
            return way(host, batch, speaker.bank(), network, bank, [recipe.control])

        fit(recipe, run, host, model, drawing(recipe, host, [recipe.control], places), read)
        folder = run.folder / "shift"
        shifter = Shifter(
            speaker,
            network,
            tuple(adapter.name for adapter in library),
            contents,
            library_folder=recipe.library,
            budget=recipe.budget,
            max_shifts=recipe.max_shifts,
            base=host.fingerprint,
            provenance=provenance(recipe),
        )
        if run.accelerator.is_main_process:
            shifter.save_pretrained(folder, dtype=getattr(torch, recipe.save_dtype))
    return folder


def drawing(
    recipe: ShiftRecipe, host: Host, controls: Sequence[int], places: dict[str, int]
) -> Callable[[int], list[Pieces]]:
    """What draws the streams of a step, as token ids; without `controls` no control token stands in them.

    Drawing raises ConfigError for streams that the base's window does not hold.
    """
    streams, data = recipe.data.build(), recipe.data

    def draw(step: int) -> list[Pieces]:
        gaps = random.Random(f"{data.seed} gaps {step}")
        length = data.lengths[step % len(data.lengths)]
        drawn = [
            encode_stream(
                host.tokenizer, s, controls, places, mark=bool(controls), gap=gaps.randint(0, data.gap)
            )
            for s in streams.train(step, recipe.streams_per_batch, [length])
        ]
        longest = max(pieces.gap + sum(map(len, pieces.pieces)) for pieces in drawn)
        if host.window is not None and longest > host.window:
            raise ConfigError(
                f"a stream takes {longest} positions, its gap among them, the base was made for "
                f"{host.window}; give less data.gap, data.lines or data.lengths"
            )
        return drawn

    return draw


def fit(
    recipe: ShiftRecipe,
    run: Run,
    host: Host,
    model: nn.Module,
    draw: Callable[[int], list[Pieces]],
    read: Callable[[int, Sequence[Pieces]], Told],
) -> None:
    """Fit a model to what is drawn, under a run: schedule, logs and checkpoints."""
    learner, steps = Learner(run, host, recipe.optimizer, model), recipe.run.max_steps
    for done in learner.left():
        told = read(done - 1, draw(done - 1))
        guide = recipe.guide * max(0.0, 1 - (done - 1) / max(steps * recipe.guide_until, 1))
        loss = told.loss / told.tokens
        extra = guide * told.guide / max(told.shifts, 1) + recipe.price * told.spurious / told.tokens
        run.accelerator.backward(loss + extra)
        metrics = {
            "loss": float(loss.detach()),
            "followed": told.right / told.tokens,
            "guide": float(told.guide.detach()) / max(told.shifts, 1),
            "missed": told.missed / max(told.shifts, 1),
            "spurious": float(told.spurious.detach()) / told.tokens,
        }
        learner.step(done, metrics)
        learner.save(done)


def load_with_head(recipe: ShiftRecipe, device: torch.device | str) -> Host:
    """The base of a recipe, its output head a site like the linear modules of its layers."""
    return load_base(recipe, device, target_modules=["all-linear", "lm_head"], dtype=recipe.dtype)


def speaker_sites(recipe: ShiftRecipe, host: Host) -> tuple[list[Site], Site]:
    """The sites that a recipe names, and the output head. Raises ConfigError where there are none."""
    sites, head = split_head(host)
    if recipe.speaker_modules:
        try:
            chosen = set(sites_of(host.module, recipe.speaker_modules))
        except (ConfigError, UnknownNameError) as error:
            raise ConfigError(f"speaker_modules: {error}") from error
        sites = [site for site in sites if site in chosen]
    if not sites:
        raise ConfigError(f"speaker_modules {recipe.speaker_modules!r} matches no site but the output head")
    return sites, head


def split_head(host: Host) -> tuple[list[Site], Site]:
    """The sites of a host, and its output head. Raises ConfigError where the head is no site."""
    head = language_model(host).get_output_embeddings()
    found = [site for site in host.sites if host.module.get_submodule(site.path) is head]
    if not found:
        raise ConfigError(
            "a shift writes into the output head; open the base with target_modules that name it"
        )
    return [site for site in host.sites if site is not found[0]], found[0]


def _check(recipe: ShiftRecipe, library: Sequence[str]) -> None:
    """Everything that can be wrong without the base. Raises ConfigError."""
    streams = recipe.data.build()
    for length in recipe.data.lengths:
        streams.train(0, 1, [length])
    if round(recipe.told_until * recipe.run.max_steps):
        if recipe.network.mode == "generate":
            raise ConfigError("told_until tells adapters of a library; a network that generates has none")
        if lacking := [task for task in recipe.data.tasks if task not in library]:
            raise ConfigError(f"told_until tells adapters of the library, which lacks {', '.join(lacking)}")


def _choose(adapters: Sequence[Adapter], names: Sequence[str]) -> list[Adapter]:
    named = {adapter.name: adapter for adapter in adapters}
    for name in names:
        if name not in named:
            raise UnknownNameError(f"the library has no adapter {name!r}{nearest(name, named)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"adapters names {twice[0]!r} twice")
    return [named[name] for name in names] if names else list(adapters)
