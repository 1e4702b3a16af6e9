"""Letters in weights: one fact among lines that say nothing, in documents of any length, and side effects.

A network is trained per seed. Every share is of answers that greedy decoding gets right, all of them after a
question that holds a name alone, on documents that no training has seen.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from weft.config import Config, Seeds, Size
from weft.engine import Engine
from weft.experiments.dynamic.asked import share_equal, share_right
from weft.experiments.dynamic.table import Line, line_of, share
from weft.host import Host
from weft.hyper import ContextNetwork, WindowController
from weft.hyper.context import batched
from weft.tasks import Encoded, Task, render
from weft.tasks.letters.idle import STRANGE, TRAINED, IdleKind, idle_line
from weft.tasks.letters.recalls import NAMES, document_task
from weft.tasks.source import Source, load_splits
from weft.train.context import ContextRecipe, draw_unrelated, train_context
from weft.train.recipe import inside, load_base
from weft.types import Adapter, Bank, Mixture

CLEAR: Sequence[IdleKind] = tuple(kind for kind in TRAINED if kind != "near")
KNOWN, ALL, UNKNOWN = "clearly idle lines", "near misses among the idle lines", "idle lines of strange kinds"
HOPS = "two hops, K >L and L >cab"
LEFT, STAYS = "the fact has left the window", "the fact still stands in the window"
HELD_OPEN = "the same network, its gate held open"
_PEAK = Path("/proc/self/clear_refs")
_TOGETHER = 64
"""Chunks that are read in one forward."""
_TRIES = 10
"""Texts drawn for each whose fact has to have left the window."""
_NOISE = 64
"""Tokens of a garbage document."""


class WordsComparison(Config):
    """`words` in the recipe of `weft experiment dynamic`."""

    recipe: ContextRecipe
    """The training; runs go into folders below its `run.output_dir`, finished ones are not repeated."""
    seeds: Seeds = (0,)
    """What is trained is trained once with each."""
    lines: Size = 4
    """Of the longest document in training."""
    times: tuple[int, ...] = (1, 8, 32)
    """Lengths to measure, as multiples of that."""
    needles: tuple[int, ...] = (1, 2)
    """Facts in a document."""
    documents: Size = 100
    """Per length and kind of idle lines."""
    window: Size = 24
    """Tokens that the window controller keeps."""
    windowed: Size = 50
    """Documents that are read through it, per length and place of the fact."""
    unrelated: Source
    """Tasks whose test rows are asked beside a document."""
    questions: Size = 300
    """Of those rows."""


def measure_words(comparison: WordsComparison, tell: Callable[[str], None] = lambda _: None) -> list[Line]:
    """All lines of the section, each with one value per seed. Raises what training and loading raise."""
    found: dict[tuple[str, str], list[float]] = {}
    tasks = tuple(load_splits(comparison.unrelated)["train"])
    folders = []
    for seed in comparison.seeds:
        tell(f"seed {seed}: training")
        recipe = inside(comparison.recipe, f"seed-{seed}", seed=seed)
        host = load_base(recipe, "cpu", target_modules=recipe.target_modules)
        folders.append(train_context(recipe, host=host))
        network = ContextNetwork.from_pretrained(folders[-1], host=host)
        tell(f"seed {seed}: facts among idle lines")
        values = {
            **find_needles(network, comparison),
            **find_after_window(network, comparison),
            **follow_two_hops(network, comparison),
            **side_effects(network, comparison, tasks),
        }
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    lines = [line_of(what, who, values) for (what, who), values in found.items()]
    tell("memory")
    return lines + measure_memory(folders[0], comparison)


def find_needles(network: ContextNetwork, comparison: WordsComparison) -> dict[tuple[str, str], float]:
    """Shares of facts that the weights of documents know, by length and kind of idle lines."""
    found = {}
    for needles, times in product(comparison.needles, comparison.times):
        what = _what(comparison, needles, times)
        documents = _documents(comparison, needles, times, CLEAR)
        found[what, KNOWN] = _known(network, documents)
        if needles == 1:
            for name, kinds in ((ALL, TRAINED), (UNKNOWN, STRANGE)):
                found[what, name] = _known(network, _documents(comparison, needles, times, kinds))
            with _held_open(network):
                found[what, HELD_OPEN] = _known(network, documents)
        if times == 1:
            tokenizer = network.host.tokenizer
            told = [
                [render(tokenizer, row, description=t.descriptions[0]) for row in t.test] for t in documents
            ]
            found[what, "the document in the prompt, no adapter"] = share_right(network.host, None, told)
    return found


def _known(network: ContextNetwork, documents: Sequence[Task]) -> float:
    adapters = [network.adapt(task.descriptions[0]) for task in documents]
    return share_right(network.host, adapters, _questions(network.host, documents))


@contextmanager
def _held_open(network: ContextNetwork) -> Iterator[None]:
    """Every chunk is heard in full, whatever the gate says."""
    gate, network.silence = network.silence, None
    try:
        yield
    finally:
        network.silence = gate


def find_after_window(network: ContextNetwork, comparison: WordsComparison) -> dict[tuple[str, str], float]:
    """Shares of facts that are told behind the end of the text, which is all that the window still holds.

    Of facts that have left it, and at the shortest length of those that still stand in it; nothing where
    there is no such document.
    """
    found, engine = {}, Engine(network.host)
    controller = WindowController(network, window=comparison.window)
    for times in comparison.times:
        what = f"1 of 1 facts in {times}x, through a window of {comparison.window} tokens"
        for who, told in _told(network, comparison, times).items():
            if who == STAYS and times > min(comparison.times):
                continue  # hardly any
            prompts = [prompt for prompt, _ in told[: comparison.windowed]]
            said = engine.generate(prompts, controller=controller, raw=True, max_new_tokens=8)
            found[what, who] = share([text == word for text, (_, word) in zip(said, told, strict=False)])
    return found


def _told(
    network: ContextNetwork, comparison: WordsComparison, times: int
) -> dict[str, list[tuple[str, str]]]:
    """Texts with a question behind them, and its answer, until enough facts have left the window."""
    told: dict[str, list[tuple[str, str]]] = {}
    for number in range(_TRIES * comparison.windowed):
        task = document_task(
            f"measured/1/{times}/{number}", words=1, idle=times * comparison.lines - 1, kinds=CLEAR
        )
        name, word = task.test[0].prompt, task.test[0].completion
        prompt = f"{task.descriptions[0]}{name} >"
        ids = network.tokens(prompt)
        leaving = network.leaving(ids, len(ids) - comparison.window)
        has_left = network.tokens(f"{name} >{word}\n") in leaving
        told.setdefault(LEFT if has_left else STAYS, []).append((prompt, word))
        if len(told.get(LEFT, ())) == comparison.windowed:
            break
    return told


def follow_two_hops(network: ContextNetwork, comparison: WordsComparison) -> dict[tuple[str, str], float]:
    """Shares of words that are reached from a name which leads to another name; no training has such facts.

    Asked once for the first name, or again for what the first answer said.
    """
    chance = random.Random("hops")
    tasks = [document_task(f"hops/{number}", words=1) for number in range(comparison.documents)]
    names, words = [task.test[0].prompt for task in tasks], [task.test[0].completion for task in tasks]
    firsts = [chance.choice([other for other in NAMES if other != name]) for name in names]
    adapters = [
        network.adapt(f"{first} >{name}\n{task.descriptions[0]}")
        for first, name, task in zip(firsts, names, tasks, strict=True)
    ]
    mixture, engine = Mixture.rows(Bank.stack(adapters), range(len(adapters))), Engine(network.host)

    def ask(questions: list[str]) -> list[str]:
        return engine.generate(questions, mixture=mixture, max_new_tokens=8)

    said = ask(firsts)
    then = ask([answer or first for answer, first in zip(said, firsts, strict=True)])
    return {
        (HOPS, "L, asked for K"): _share_same(said, names),
        (HOPS, "cab, asked for L"): _share_same(ask(names), words),
        (HOPS, "cab, asked for K, then for what was said (two calls)"): _share_same(then, words),
        (HOPS, "cab, asked for K (one call)"): _share_same(said, words),
    }


def _share_same(said: Sequence[str], wanted: Sequence[str]) -> float:
    return share([one == other for one, other in zip(said, wanted, strict=True)])


def curves(comparison: WordsComparison, lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of one fact by way, in order of length: what the picture shows."""
    found: dict[str, list[Line]] = {name: [] for name in (KNOWN, UNKNOWN, ALL, HELD_OPEN)}
    for times in comparison.times:
        what = _what(comparison, 1, times)
        for line in lines:
            if line.what == what and line.who in found:
                found[line.who].append(line)
    return found


def _what(comparison: WordsComparison, needles: int, times: int) -> str:
    return f"{needles} of {needles} facts in {times}x, {times * comparison.lines} lines"


def side_effects(
    network: ContextNetwork, comparison: WordsComparison, tasks: Sequence[Task]
) -> dict[tuple[str, str], float]:
    """What is heard and what is not, unrelated questions, garbage, updates, and what is taken out."""
    host = network.host
    documents = _documents(comparison, 1, 1, CLEAR)
    bare = _questions(host, documents)
    mine = [network.adapt(task.descriptions[0]) for task in documents]
    chance = random.Random(0)
    garbage = [[3 + int(chance.random() * (host.vocab_size - 3)) for _ in range(_NOISE)] for _ in documents]
    noise = [network.adapt_stream(ids) for ids in garbage]
    found = {("lines that are heard", name): value for name, value in _heard(network, comparison).items()}
    pieces = [chunk for ids in garbage for chunk in network.chunks(ids)]
    found["lines that are heard", "garbage, chunks of any tokens"] = _open(network, pieces)
    asked = [[row] for row in _unrelated(host, tasks, comparison.questions)]
    before = share_right(host, None, asked)
    found["unrelated questions", "no adapter"] = before
    for name, adapters in {"a document in the weights": mine, "garbage in the weights": noise}.items():
        after = share_right(host, [adapters[k % len(adapters)] for k in range(len(asked))], asked)
        found["unrelated questions", name] = after
        found["relative loss on unrelated questions", name] = 1 - after / before if before else 0.0
    with_noise = [network.join(pair) for pair in zip(mine, noise, strict=True)]
    found["a fact in the weights", "alone"] = share_right(host, mine, bare)
    found["a fact in the weights", "and a garbage document"] = share_right(host, with_noise, bare)
    return found | _updates(network, documents, mine, noise, garbage)


def _updates(
    network: ContextNetwork,
    documents: Sequence[Task],
    mine: Sequence[Adapter],
    noise: Sequence[Adapter],
    garbage: Sequence[list[int]],
) -> dict[tuple[str, str], float]:
    """An old fact, a later one of the same name, and one of the two taken out."""
    host = network.host
    later = [document_task(f"later/{k}", words=1) for k in range(len(documents))]
    texts = [
        f"{old.test[0].prompt} >{new.test[0].completion}\n" for old, new in zip(documents, later, strict=True)
    ]
    newer = [network.adapt(text) for text in texts]
    old_rows = _questions(host, documents)
    new_rows = [
        [Encoded(rows[0].prompt_ids, one[0].completion_ids)]
        for rows, one in zip(old_rows, _questions(host, later), strict=True)
    ]
    both = [network.join([a, b, c]) for a, b, c in zip(mine, newer, noise, strict=True)]
    taken = [network.join([b, c]) for b, c in zip(newer, noise, strict=True)]
    # Pressed again by a network that reads nothing else in between.
    never = [
        network.join([network.adapt(text), network.adapt_stream(ids)])
        for text, ids in zip(texts, garbage, strict=True)
    ]
    name = "an old fact and a later one of its name"
    found = {
        (name, "the later one"): share_right(host, both, new_rows),
        (name, "the old one"): share_right(host, both, old_rows),
        ("the old document taken out", "the later one"): share_right(host, taken, new_rows),
        ("the old document taken out", "the old one"): share_right(host, taken, old_rows),
    }
    equal = share_equal(host, taken, never, new_rows)
    found["the old document taken out", "logits as if it had never been there, bit for bit"] = equal
    return found


def measure_memory(folder: Path, comparison: WordsComparison) -> list[Line]:
    """Peak resident memory of a process of its own while it reads one document, by length, in MiB.

    Nothing where the system is no Linux, which alone lets a process set its peak back after loading.
    """
    if not _PEAK.is_file():
        return []
    ends, peaks = (min(comparison.times), max(comparison.times)), []
    for times in ends:
        text = _documents(comparison, 1, times, CLEAR)[0].descriptions[0]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(_peak, str(folder), comparison.recipe.base, text).result())
    lines = []
    for times, (before, peak) in zip(ends, peaks, strict=True):
        lines.append(line_of("peak memory of the process that reads, MiB", f"{times}x", [peak]))
        lines.append(line_of("of it above what it held before, MiB", f"{times}x", [peak - before]))
    return [*lines, line_of("peak memory", f"{ends[1]}x / {ends[0]}x", [peaks[1][1] / peaks[0][1]])]


def _peak(folder: str, base: str, text: str) -> tuple[float, float]:
    """Resident memory with the network loaded, and the most while a document was read, in MiB."""
    torch.set_num_threads(1)
    network = ContextNetwork.from_pretrained(folder, host=Host.from_pretrained(base, dtype="float32"))
    network.adapt(text[: text.index("\n") + 1])  # what is made once, with the first text
    _PEAK.write_text("5")  # see proc(5): the peak is set back to what is held now
    before = _resident("VmRSS")
    network.adapt(text)
    return before, _resident("VmHWM")


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def _documents(
    comparison: WordsComparison, needles: int, times: int, kinds: Sequence[IdleKind]
) -> list[Task]:
    """Documents of so many lines in all, the facts at any places among them."""
    idle = times * comparison.lines - needles
    return [
        document_task(f"measured/{needles}/{times}/{k}", words=needles, idle=idle, kinds=kinds)
        for k in range(comparison.documents)
    ]


def _questions(host: Host, documents: Sequence[Task]) -> list[list[Encoded]]:
    """The questions of every document, as they are asked: a name alone."""
    return [[render(host.tokenizer, row) for row in task.test] for task in documents]


def _unrelated(host: Host, tasks: Sequence[Task], count: int) -> list[Encoded]:
    """Test rows behind their descriptions, of tasks that no document is about."""
    asked = [replace(task, train=task.test) for task in tasks]
    return draw_unrelated(host, asked, count, "measured")


def _heard(network: ContextNetwork, comparison: WordsComparison) -> dict[str, float]:
    """Shares of lines that the gate lets speak, by kind; a line counts where any chunk of it does."""
    chance = random.Random(0)
    texts = {
        "facts": [document_task(f"heard/{k}", words=1).descriptions[0] for k in range(comparison.documents)],
        **{
            f"idle: {kind}": [idle_line(chance, kind) for _ in range(comparison.documents)]
            for kind in (*TRAINED, *STRANGE)
        },
    }
    return {
        name: share([_open(network, list(network.chunks(network.tokens(text)))) > 0 for text in lines])
        for name, lines in texts.items()
    }


@torch.no_grad()
def _open(network: ContextNetwork, chunks: Sequence[Sequence[int]]) -> float:
    """The share of chunks that are heard at all."""
    heard = [network.hear(several)[1] > 0 for several in batched(chunks, _TOGETHER)]
    return float(torch.cat(heard).float().mean())
