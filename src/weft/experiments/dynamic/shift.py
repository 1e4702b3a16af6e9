"""Streams whose task changes inside one answer: a shift beside an oracle and its rivals.

    oracle      each input alone, under the adapter of its task, those that the library lacks included
    told        each input alone, under the library's adapter of its task; the base where it lacks the task
    shift       one generation; the model says when, its vector says what
    refused     the same model, none of whose shifts is done (max_shifts 0): what its speaker does alone
    tokens      one generation; one control token per library adapter (and one for none), no vector
    tokens from nothing   the same, trained from nothing for as many steps as the shift
    multi-task  one generation under one LoRA of as many parameters as speaker and shift network
    phatgoose   one generation; gates choose of the library for every token, beside a LoRA of the same size
    arrow       the same with Arrow's gates, which learn nothing
    retrieval   boundaries told; the adapter whose training lines are nearest to the line by the base's states
    static      boundaries told; each input alone under one library adapter, the best of all on these streams

An answer counts where it stands at its place in the text and equals the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from weft.config import Config, Seeds, Size
from weft.engine import Engine
from weft.engine.trace import Traced
from weft.experiments.dynamic.gates import arrow, phatgoose
from weft.experiments.dynamic.table import Line, line_of, share
from weft.experiments.dynamic.tokens import TokenSwitch
from weft.host import Host
from weft.hyper import Shifter, Speaker
from weft.route import load_library
from weft.rows import AbstractController
from weft.tasks.streams import Stream, answers_of
from weft.train.recipe import inside
from weft.train.run import Run
from weft.train.shift import ShiftRecipe, drawing, fit, load_with_head, speaker_sites, train_shift
from weft.train.told import read_told
from weft.types import Adapter, Bank, Mixture

Way = Literal[
    "oracle",
    "told",
    "shift",
    "refused",
    "tokens",
    "tokens from nothing",
    "multi-task",
    "phatgoose",
    "arrow",
    "retrieval",
    "static",
]
WAYS: tuple[Way, ...] = get_args(Way)
TRAINED: tuple[Way, ...] = ("tokens", "tokens from nothing", "multi-task", "phatgoose", "arrow")
"""What learns beside the shift."""
FIXED: tuple[Way, ...] = ("oracle", "told", "retrieval", "static")
"""What no seed changes: measured once."""


class ShiftComparison(Config):
    """Streams under a shift and under what it competes with."""

    recipe: ShiftRecipe
    """The training of the shift; what else is trained has the same streams and steps. The runs go into
    folders below its `run.output_dir`, one for each seed; those that are finished are not repeated."""
    seeds: Seeds = (0,)
    """The shift, and what else is trained, is trained once with each."""
    specialists: str
    """A library that holds an adapter of every task of the streams, for the oracle."""
    ways: tuple[Way, ...] = Field(default=WAYS, min_length=1)
    """What is compared."""
    streams: Size = 40
    """Streams of each length that are answered, of pairs of tasks that no training stream has."""
    lengths: tuple[int, ...] = Field(default=(2, 4, 6), min_length=1)
    """Parts of the streams that are answered."""
    rival_seeds: tuple[int, ...] = ()
    """Those of the seeds with which what else is trained is trained; all unless given."""
    rival_steps: int = Field(default=0, ge=0)
    """Steps of what else is trained, going on from the speaker of the trained shift; 0: from nothing, as many
    as the shift has, which is what `tokens from nothing` always does."""

    @model_validator(mode="after")
    def _fits_together(self) -> ShiftComparison:
        if self.recipe.network.mode == "generate" and {"tokens", "tokens from nothing"} & {*self.ways}:
            raise ValueError("tokens switch between the adapters of a library; mode generate has none")
        return self


@dataclass(frozen=True, slots=True)
class Answered:
    """What one way made of the streams of one length, with one seed."""

    way: Way
    seed: int
    length: int
    right: float
    """Share of the answers, 0 to 1."""
    right_held: float
    """Of those whose task the library holds."""
    right_lacking: float | None
    """Of those whose task it lacks; None where there are none."""
    whole: float
    """Share of the streams that were right throughout."""
    by_stream: tuple[float, ...]
    """Share of the answers of each stream."""
    spurious: float | None
    """Control tokens over all other tokens, where no shift belonged; None for ways without them."""
    found: float | None
    """Share of the shifts that came at their place."""
    parameters: int
    """Learned for it, beside the library."""


def measure_shift(comparison: ShiftComparison, tell: Callable[[str], None] = lambda _: None) -> list[Line]:
    """Train what is not trained yet, and answer. Raises what training and loading raise."""
    found = [one for seed in comparison.seeds for one in _of_seed(comparison, seed, tell)]

    def lines(what: str, value: Callable[[Answered], float | None], lengths: Sequence[int]) -> list[Line]:
        made = []
        for length in lengths:
            for way in comparison.ways:
                values = [value(one) for one in found if one.way == way and one.length == length]
                told = [v for v in values if v is not None]
                if told:
                    made.append(line_of(what.format(length), way, told))
        return made

    def of_oracle(one: Answered) -> float | None:
        best = next((o.right for o in found if (o.way, o.length) == ("oracle", one.length)), 0.0)
        return one.right / best if one.way == "shift" and best else None

    longest = max(comparison.lengths)
    return [
        *lines("answers right, streams of {}", lambda one: one.right, comparison.lengths),
        *(_by_stream(found) if len(comparison.seeds) == 1 else ()),
        *lines("right, as a share of the oracle's, streams of {}", of_oracle, comparison.lengths),
        *lines("of tasks in the library, streams of {}", lambda one: one.right_held, [longest]),
        *lines("of tasks that it lacks, streams of {}", lambda one: one.right_lacking, [longest]),
        *lines("whole streams of {} right", lambda one: one.whole, [longest]),
        *lines("shifts found at their place, streams of {}", lambda one: one.found, comparison.lengths),
        *lines("control tokens elsewhere, per token, {}", lambda one: one.spurious, comparison.lengths),
        *lines(
            "learned parameters", lambda one: float(one.parameters) if one.parameters else None, [longest]
        ),
    ]


def _by_stream(found: Sequence[Answered]) -> list[Line]:
    """For one seed: every way's mean over streams, and how far the shift is above it in the same streams."""
    lines = [
        line_of(f"answers right, mean over streams of {one.length}", one.way, one.by_stream) for one in found
    ]
    for shift in (one for one in found if one.way == "shift"):
        for one in found:
            if one.way != "shift" and one.length == shift.length:
                above = [mine - its for mine, its in zip(shift.by_stream, one.by_stream, strict=True)]
                lines.append(
                    line_of(f"the shift above it, mean over streams of {one.length}", one.way, above)
                )
    return sorted(lines, key=lambda line: line.what)


def _of_seed(comparison: ShiftComparison, seed: int, tell: Callable[[str], None]) -> list[Answered]:
    mine = inside(comparison.recipe, f"shift-{seed}", seed=seed)
    host = load_with_head(mine, "cuda" if torch.cuda.is_available() else "cpu")
    library = {a.name: a for a in load_library(mine.library).adapters}
    library = {name: library[name] for name in mine.adapters or library}
    specialists = {a.name: a for a in load_library(comparison.specialists).adapters}
    streams = {length: mine.data.build().test(comparison.streams, [length]) for length in comparison.lengths}
    shifter = cache(lambda: Shifter.from_pretrained(train_shift(mine, host=host), host=host))
    found = []
    rivals = seed in (comparison.rival_seeds or comparison.seeds)
    for way in comparison.ways:
        if (way in TRAINED and not rivals) or (way in FIXED and seed != comparison.seeds[0]):
            continue
        tell(f"seed {seed}: {way}")
        size = 0
        answer: Callable[[Sequence[Stream]], list[_Text]]
        if way in ("shift", "refused"):
            made, most = shifter(), 0 if way == "refused" else None
            size = _size(made.speaker) + _size(made.network)
            heard = made.controller(list(library.values()), max_shifts=most, audible=True)
            answer = _speaking(host, heard)
        elif way in ("tokens", "tokens from nothing"):
            speaker = _trained(comparison, seed, way, host, library, mine.speaker_rank, shifter)
            size = _size(speaker)
            answer = _speaking(host, TokenSwitch(speaker, list(library.values()), host.fingerprint))
        elif way in ("multi-task", "phatgoose", "arrow"):
            sites, head = speaker_sites(mine, host)
            each = _size(Speaker(sites, head, [], rank=1, scaling=1.0))
            rank = -(-(_size(shifter().speaker) + _size(shifter().network)) // each)
            beside = _gated(way, host, library, seed)
            speaker = _trained(comparison, seed, way, host, {}, rank, shifter, beside)
            size = _size(speaker)
            answer = _under(host, Mixture.of(speaker.adapter(host.fingerprint)) + beside)
        else:
            answer = _alone(host, _choose(way, host, mine, library, specialists, streams, seed))
        for length, some in streams.items():
            found.append(_score(way, seed, length, size, some, answer(some), set(library)))
    return found


@dataclass(frozen=True)
class _Text:
    """The answers to the parts of one stream, and where control tokens stood, by place among the parts."""

    answers: list[str]
    shifts: list[bool] | None = None
    """Whether a control token came at each part's place."""
    spurious: int = 0
    tokens: int = 0


def _speaking(host: Host, controller: AbstractController) -> Callable[[Sequence[Stream]], list[_Text]]:
    """One generation per stream, heard by a controller."""
    engine = Engine(host)
    controls = controller.controls if isinstance(controller, TokenSwitch) else (controller.control,)  # pyright: ignore

    def answer(streams: Sequence[Stream]) -> list[_Text]:
        most = max(_tokens(engine, stream) for stream in streams) + 12
        traced = engine.trace(
            [s.prompt for s in streams], controller=controller, raw=True, max_new_tokens=most
        )
        return [_heard(engine, one, s, controls) for one, s in zip(traced, streams, strict=True)]

    return answer


def _heard(engine: Engine, traced: Sequence[Traced], stream: Stream, controls: Sequence[int]) -> _Text:
    """Where control tokens stood in what was written: rightly only behind the lead of a part that shifts."""
    said = [one for one in traced if one.token_id not in engine.stop_ids]
    written, places = "", []
    for one in said:
        if one.token_id in controls:
            places.append(written)
        else:
            written += engine.tokenizer.decode([one.token_id])
    lines = written.split("\n")
    starts = [sum(len(line) + 1 for line in lines[:i]) for i in range(len(stream.parts))]
    wanted = [
        start + len(part.lead) if i < len(lines) else -1
        for i, (start, part) in enumerate(zip(starts, stream.parts, strict=True))
    ]
    stood = [len(text) for text in places]
    shifts = [place in stood for place in wanted]
    rightly = sum(stood.count(place) > 0 for place, shift in zip(wanted, stream.shifts, strict=True) if shift)
    return _Text(answers_of(written, stream.parts), shifts, len(stood) - rightly, len(said) - len(stood))


def _gated(way: Way, host: Host, library: dict[str, Adapter], seed: int) -> Mixture:
    """The library under the gate of a way; nothing for a way without one."""
    if way == "multi-task":
        return Mixture()
    bank = Bank.stack(list(library.values())).to(host.device, host.dtype)
    torch.manual_seed(seed)
    return Mixture((arrow(bank) if way == "arrow" else phatgoose(host, bank),))


def _under(host: Host, mixture: Mixture) -> Callable[[Sequence[Stream]], list[_Text]]:
    """One generation per stream under one mixture."""
    engine = Engine(host)

    def answer(streams: Sequence[Stream]) -> list[_Text]:
        most = max(_tokens(engine, stream) for stream in streams) + 12
        texts = engine.generate([s.prompt for s in streams], mixture=mixture, raw=True, max_new_tokens=most)
        return [_Text(answers_of(text, s.parts)) for text, s in zip(texts, streams, strict=True)]

    return answer


def _alone(
    host: Host, chosen: Callable[[Stream], list[Adapter | None]]
) -> Callable[[Sequence[Stream]], list[_Text]]:
    """Every input alone, under the adapter that is chosen for its part."""
    engine = Engine(host)

    def answer(streams: Sequence[Stream]) -> list[_Text]:
        asked = [(part, adapter) for s in streams for part, adapter in zip(s.parts, chosen(s), strict=True)]
        used = list({id(a): a for _, a in asked if a is not None}.values())
        places = {id(adapter): k for k, adapter in enumerate(used)}
        index = [None if a is None else places[id(a)] for _, a in asked]
        mixture = Mixture.rows(Bank.stack(used).to(host.device, host.dtype), index) if used else None
        texts = engine.generate(
            [part.prompt for part, _ in asked], mixture=mixture, raw=True, max_new_tokens=16, batch_size=128
        )
        ready = iter(text.strip() for text in texts)
        return [_Text([next(ready) for _ in s.parts]) for s in streams]

    return answer


def _choose(
    way: Way,
    host: Host,
    mine: ShiftRecipe,
    library: dict[str, Adapter],
    specialists: dict[str, Adapter],
    streams: dict[int, list[Stream]],
    seed: int,
) -> Callable[[Stream], list[Adapter | None]]:
    """The adapter of every part, for the ways that are told where parts begin."""
    if way == "oracle":
        return lambda stream: [library.get(p.task) or specialists[p.task] for p in stream.parts]
    if way == "told":
        return lambda stream: [library.get(p.task) for p in stream.parts]
    if way == "static":
        every = [s for some in streams.values() for s in some]
        scores = {
            name: sum(
                a == p.answer
                for s, text in zip(
                    every, _alone(host, lambda s, x=adapter: [x] * len(s.parts))(every), strict=True
                )
                for p, a in zip(s.parts, text.answers, strict=True)
            )
            for name, adapter in library.items()
        }
        best = library[max(scores, key=lambda name: scores[name])]
        return lambda stream: [best] * len(stream.parts)
    # Retrieval: mean states of the lines of training streams, by the task that the library's adapters do.
    train = [s for draw in range(20) for s in mine.data.build().train(draw, 10, [4])]
    lines = [(p.task, line) for s in train for p, line in zip(s.parts, s.prompt.split("\n"), strict=False)]
    states = _states(host, [line for _, line in lines])
    known = dict.fromkeys(task for task, _ in lines if task in library)
    means = {
        name: F.normalize(states[[i for i, (task, _) in enumerate(lines) if task == name]].mean(0), dim=0)
        for name in known
    }
    names, mean_KH = list(means), torch.stack(list(means.values()))

    def nearest(stream: Stream) -> list[Adapter | None]:
        found_NH = F.normalize(_states(host, stream.prompt.split("\n")[: len(stream.parts)]), dim=-1)
        return [library[names[k]] for k in (found_NH @ mean_KH.mT).argmax(-1).tolist()]

    return nearest


@torch.no_grad()
def _states(host: Host, lines: Sequence[str]) -> torch.Tensor:
    """The base's mean last state of every line."""
    means = []
    for line in lines:
        ids = torch.tensor([host.tokenizer.encode(line)], device=host.device)
        means.append(host(ids, output_hidden_states=True).hidden_states[-1][0].mean(0).float())
    return torch.stack(means)


def _trained(
    comparison: ShiftComparison,
    seed: int,
    way: Way,
    host: Host,
    library: dict[str, Adapter],
    rank: int,
    shifter: Callable[[], Shifter],
    beside: Mixture | None = None,
) -> Speaker:
    """A speaker alone, trained on the same streams: with a control token per adapter, or without any."""
    told = inside(comparison.recipe, f"{way.replace(' ', '-')}-{seed}", seed=seed)
    sites, head = speaker_sites(told, host)
    controls = [told.control + k for k in range(len(library) + 1)] if library else []
    torch.manual_seed(seed)
    speaker = Speaker(sites, head, controls, rank=rank, scaling=told.speaker_scaling).to(host.device)
    if comparison.rival_steps and way != "tokens from nothing":
        told = told.model_copy(
            update={"run": told.run.model_copy(update={"max_steps": comparison.rival_steps})}
        )
        _start_from(speaker, shifter().speaker)
    bank = Bank.stack(list(library.values())).to(host.device, host.dtype) if library else None
    places = {name: k for k, name in enumerate(library)}
    with Run(told.run, told) as run:
        fit(
            told,
            run,
            host,
            nn.ModuleDict({"speaker": speaker}),
            drawing(told, host, controls, places),
            lambda _, batch: read_told(host, batch, speaker.bank(), None, bank, controls, beside=beside),
        )
    return speaker


@torch.no_grad()
def _start_from(speaker: Speaker, trained: Speaker) -> None:
    """Let a speaker of at least that rank act as a trained one does; its further ranks change nothing yet."""
    for mine, theirs in zip([*speaker.a, *speaker.b], [*trained.a, *trained.b], strict=True):
        rows, columns = theirs.shape
        mine[:rows, :columns] = theirs
    if speaker.controls:
        speaker.row_CH[:] = trained.row_CH


def _score(
    way: Way,
    seed: int,
    length: int,
    size: int,
    streams: Sequence[Stream],
    texts: Sequence[_Text],
    held: set[str],
) -> Answered:
    marks = [
        (part.task in held, answer == part.answer)
        for stream, text in zip(streams, texts, strict=True)
        for part, answer in zip(stream.parts, text.answers, strict=True)
    ]
    lacking = [right for known, right in marks if not known]
    whole = [
        all(a == p.answer for p, a in zip(s.parts, t.answers, strict=True))
        for s, t in zip(streams, texts, strict=True)
    ]
    heard = [
        (wanted, came)
        for stream, text in zip(streams, texts, strict=True)
        if text.shifts is not None
        for wanted, came in zip(stream.shifts, text.shifts, strict=True)
    ]
    spurious = sum(t.spurious for t in texts) / max(sum(t.tokens for t in texts), 1) if heard else None
    return Answered(
        way,
        seed,
        length,
        share([right for _, right in marks]),
        share([right for known, right in marks if known]),
        share(lacking) if lacking else None,
        share(whole),
        tuple(
            share([a == p.answer for p, a in zip(s.parts, t.answers, strict=True)])
            for s, t in zip(streams, texts, strict=True)
        ),
        spurious,
        share([came for wanted, came in heard if wanted]) if heard else None,
        size,
    )


def _tokens(engine: Engine, stream: Stream) -> int:
    text = "".join(part.lead + part.text for part in stream.parts)
    return len(engine.tokenizer.encode(text)) + len(stream.parts)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
