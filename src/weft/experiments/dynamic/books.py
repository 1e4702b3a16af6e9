"""Books on a base that reads English: what an adapter still tells of the text that has left the window.

    share = sum (window - way) / sum (window - full)      in nats per token of the end of a passage

A passage of a book is cut in three: what is pressed, the window behind it, and the completion, which is
measured. One training; values are of passages that lie evenly in a file which no training has seen. A ratio
of sums over passages has the interval of its linearisation, R + (top - R bottom) / mean bottom (Cochran 1977,
chapter 6).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from weft.config import Config, Size
from weft.errors import ConfigError
from weft.experiments.dynamic.table import Line, line_of
from weft.host import Host
from weft.hyper import ContextNetwork
from weft.hyper.context import batched
from weft.reading import read_lines
from weft.tasks import Encoded
from weft.tasks.batch import pad_id
from weft.train.answer_logits import answer_logits
from weft.train.lessons import passage_length
from weft.train.packing import pack
from weft.types import Adapter, Bank, Factors, Mixture

WINDOW, FULL = "the window only", "the whole passage in the prompt"
OWN = "the window, and the adapter of what has left it"
OTHER = "the window, and the adapter of another passage"
CONSTANT = "the window, and one constant adapter, the mean of many"
SINKS = "attention sinks: the first 4 tokens, and the window"
NOTHING, ALONE = "no text", "no text but the adapter"
NATS, SHARE = "nats per token", "share of the gap"
RETURNS, OTHERS = "tokens that stand in what has left, and not yet behind it", "all other tokens"
_SINKS = 4
_TOGETHER = 4
"""Passages that are read in one forward."""


class BooksComparison(Config):
    """`books` in the recipe of `weft experiment dynamic`."""

    run: str
    """Folder of a training, `weft train context`."""
    base: str
    """Embedded name, folder or hub id of the frozen base."""
    path: str
    """Books that the training has not seen, a .txt or .txt.gz file."""
    passages: Size = 60
    """Passages that are measured."""
    averaged: Size = 16
    """Other passages, whose mean is the constant adapter."""
    pressed: Size = 384
    """Tokens of a passage that have left the window."""
    window: Size = 32
    """Tokens behind them, in the prompt."""
    completion: Size = 96
    """Tokens behind these, which are measured."""
    more: tuple[Size, ...] = (32, 128)
    """Wider windows to set beside the adapter: so many tokens more in the prompt."""


def measure_books(comparison: BooksComparison, tell: Callable[[str], None] = lambda _: None) -> list[Line]:
    """All lines of the section, each with one value per passage.

    Raises ConfigError for too short a text, and what loading raises.
    """
    host = Host.from_pretrained(comparison.base, dtype="float32")
    network = ContextNetwork.from_pretrained(Path(comparison.run) / "context", host=host)
    tell("drawing passages")
    passages, others = draw_passages(host, comparison)
    nats = measure_ways(network, comparison, passages, others, tell)
    back_NC = returning(passages, comparison)
    lines = [line_of(NATS, who, nats_NC.mean(1).tolist()) for who, nats_NC in nats.items()]
    for who, nothing in {**dict.fromkeys(nats, WINDOW), ALONE: NOTHING}.items():
        if who not in (WINDOW, FULL, NOTHING):
            gained_N, gap_N = ((nats[nothing] - nats[way]).sum(1) for way in (who, FULL))
            lines.append(line_of(SHARE, who, ratio(gained_N, gap_N)))
    for what, kind_NC in ((RETURNS, back_NC), (OTHERS, ~back_NC)):
        lines.append(line_of("share of the tokens", what, kind_NC.double().mean(1).tolist()))
        for who in (WINDOW, FULL, OWN, OTHER, CONSTANT):
            values = ratio((nats[who] * kind_NC).sum(1), kind_NC.sum(1))
            lines.append(line_of(f"{NATS}, {what}", who, values))
    return lines


def draw_passages(host: Host, comparison: BooksComparison) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the measured passages, and of those that are averaged; each has its own part of the file.

    Raises ConfigError for a text that is too short for them, and for passages longer than the base's window.
    """
    lines = [line for _, line in read_lines(comparison.path)]
    length = passage_length(host, comparison.pressed, comparison.window, comparison.completion)
    count = comparison.passages + comparison.averaged
    chance = random.Random("passages")
    drawn = []
    for number in range(count):
        first, end = number * len(lines) // count, (number + 1) * len(lines) // count
        ids: list[int] = []
        for line in islice(lines, first + chance.randrange(max(1, (end - first) // 2)), end):
            ids += host.tokenizer.encode(line.strip() + "\n", add_special_tokens=False)
            if len(ids) >= length:
                break
        if len(ids) < length:
            raise ConfigError(
                f"{comparison.path} is too short: part {number + 1} of {count} of its lines has a passage of "
                f"{len(ids)} tokens, {length} are needed; give a longer text, or fewer passages"
            )
        drawn.append(ids[:length])
    aside = set(random.Random("averaged").sample(range(count), comparison.averaged))
    measured = [ids for place, ids in enumerate(drawn) if place not in aside]
    return measured, [drawn[place] for place in sorted(aside)]


def measure_ways(
    network: ContextNetwork,
    comparison: BooksComparison,
    passages: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Float[Tensor, "N C"]]:
    """Nats of every token of the completions, by what is known of the text before them."""
    host, pressed = network.host, comparison.pressed
    end = pressed + comparison.window
    tell("pressing")
    own = [network.adapt_stream(ids[:pressed]) for ids in passages]
    whole = [network.adapt_stream(ids[:end]) for ids in passages]
    constant = mean_adapter(network, [network.adapt_stream(ids[:pressed]) for ids in others])

    def since(first: int, sinks: int = 0) -> list[Encoded]:
        return [Encoded([*ids[:sinks], *ids[first:end]], list(ids[end:])) for ids in passages]

    ways: dict[str, tuple[list[Encoded], Sequence[Adapter] | None]] = {
        WINDOW: (since(pressed), None),
        FULL: (since(0), None),
        OWN: (since(pressed), own),
        OTHER: (since(pressed), [*own[1:], own[0]]),
        CONSTANT: (since(pressed), [constant] * len(own)),
        **{f"the window, and {n} tokens more": (since(max(0, pressed - n)), None) for n in comparison.more},
        # a first token has to be there, so one is: the last before the completion
        NOTHING: (since(end - 1), None),
        ALONE: (since(end - 1), whole),
        SINKS: (since(pressed, _SINKS), None),
    }
    nats = {}
    for who, (rows, adapters) in ways.items():
        tell(who)
        nats[who] = nats_of(host, adapters, rows)
    return nats


def mean_adapter(network: ContextNetwork, adapters: Sequence[Adapter]) -> Adapter:
    """The mean of what these adapters do, cut back to the network's budget where it has one."""
    joined = network.join(adapters)
    factors = {
        site: Factors(a_RI, b_OR, scaling / len(adapters))
        for site, (a_RI, b_OR, scaling) in joined.factors.items()
    }
    return replace(joined, factors=factors)


@torch.no_grad()
def nats_of(host: Host, adapters: Sequence[Adapter] | None, rows: Sequence[Encoded]) -> Float[Tensor, "N C"]:
    """Nats of every token of the completions, which are of one length, under the adapter of each row."""
    nats = []
    for places in batched(range(len(rows)), _TOGETHER):
        packed = pack([[rows[k]] for k in places], pad_id=pad_id(host), share_prefix=False)
        mixture = None
        if adapters is not None:
            mixture = Mixture.rows(Bank.stack([adapters[k] for k in places]), range(len(places)))
        said = answer_logits(host, mixture, packed)
        nats_N = F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="none")
        nats.append(nats_N.view(len(places), -1))
    return torch.cat(nats).double()


def returning(passages: Sequence[Sequence[int]], comparison: BooksComparison) -> Bool[Tensor, "N C"]:
    """Which tokens of the completions stand in the pressed part, and nowhere between it and themselves."""
    pressed, end = comparison.pressed, comparison.pressed + comparison.window
    return torch.tensor(
        [
            [ids[at] in ids[:pressed] and ids[at] not in ids[pressed:at] for at in range(end, len(ids))]
            for ids in passages
        ]
    )


def ratio(top_N: Tensor, bottom_N: Tensor) -> list[float]:
    """Values whose mean is sum(top) / sum(bottom), and whose spread is that of this ratio."""
    top_N, bottom_N = top_N.double(), bottom_N.double()
    share = top_N.sum() / bottom_N.sum()
    return (share + (top_N - share * bottom_N) / bottom_N.mean()).tolist()
