"""`weft demo`: answers before and after, for descriptions that the reader may change."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from weft.cli.demo.act import Act, Ask, play
from weft.cli.demo.context import show_context
from weft.cli.demo.functions import FUNCTIONS, function_answer
from weft.cli.demo.letters import INPUTS, LETTERS, letters_answer
from weft.cli.demo.mix import show_mix
from weft.cli.demo.page import print_act, print_foot, print_head
from weft.cli.demo.shift import show_shift
from weft.cli.shared.flags import Flag, Json
from weft.cli.shared.model import BASE, HYPERNETWORK, base_of
from weft.cli.shared.screen import print_json
from weft.errors import ConfigError, CueError, MissingFileError
from weft.files import embedded_folder
from weft.plain import one_line
from weft.registry import NAMED

REAL_BASE, REAL_HYPERNETWORK = "weft/smollm2", "weft/smollm2-t2l"
_SHORT = 3
"""How many of the letters follow the real model."""


def demo(
    *,
    describe: tuple[str, ...] = (),
    input: tuple[str, ...] = (),
    hypernetwork: Annotated[str | None, Parameter(name="--with")] = None,
    shift: Flag = False,
    context: Flag = False,
    mix: Flag = False,
    json: Json = False,
) -> None:
    """Make adapters from sentences; show answers before and after.

    A hypernetwork turns each description into a LoRA adapter of its base in one
    forward pass. The adapted base reads the input alone: all that it knows of
    the task is in the adapter. Beside it answers the base without an adapter;
    a real model (weft/smollm2, fetched once) is given the description in its
    prompt. The letters are embedded, and follow in short. For example:

        weft demo
        weft demo --describe "Give me the surname." --input "Anna Keller"
        weft demo --with weft/letters-t2l --describe "double every letter" --input weft
        weft demo --shift
        weft demo --context

    Args:
        describe: What to do with each input, in words; several make several adapters.
        input: Texts; several are answered under every description.
        hypernetwork: The hypernetwork that makes the adapters: a folder, or one that ships with Weft.
        shift: Show adapters that change while the model answers instead, weft/letters-shift.
        context: Show texts that went into the weights instead, weft/letters-words.
        mix: Show a text in the weights and an operation on it instead, weft/letters-mix.
    """
    shows = {"--shift": (shift, show_shift), "--context": (context, show_context), "--mix": (mix, show_mix)}
    chosen = [name for name, (wanted, _) in shows.items() if wanted]
    if chosen:
        if len(chosen) > 1 or describe or input or hypernetwork is not None:
            raise ConfigError(
                f"{chosen[0]} shows questions of its own; leave out --describe, --input, --with "
                "and the other shows"
            )
        shows[chosen[0]][1](json=json)
        return
    if not all(text.strip() for text in describe):
        raise CueError("a description is empty; say in words what to do with the input")
    acts = _acts(describe, input, hypernetwork)
    shown = []
    for act in acts:
        if not json:
            print_head(act)
        played = play(act)
        shown += played.answers
        if not json:
            print_act(played)
    print_json([asdict(answer) for answer in shown]) if json else print_foot(acts[0])


def _acts(describe: tuple[str, ...], input: tuple[str, ...], hypernetwork: str | None) -> list[Act]:
    if hypernetwork is not None:
        return [_act(hypernetwork, base_of(hypernetwork), describe, input)]
    letters = _act(HYPERNETWORK, BASE, describe, input)
    if not (embedded_folder() / REAL_HYPERNETWORK.removeprefix("weft/")).is_dir() or not _is_here():
        return [letters]
    real = _act(REAL_HYPERNETWORK, REAL_BASE, describe, input)
    return [real] if describe or input else [real, letters.cut(_SHORT)]


def _is_here() -> bool:
    """Whether the real model is on this machine; it is fetched where it was not, or one line says why not."""
    from weft.host.fetch import fetch_model

    try:
        fetch_model(NAMED[REAL_BASE])
    except MissingFileError as error:
        print(f"weft: the letters alone: {one_line(str(error))}", file=sys.stderr)
        return False
    return True


def _act(hypernetwork: str, base: str, describe: tuple[str, ...], input: tuple[str, ...]) -> Act:
    """What a hypernetwork is asked: the reader's own words, else the table of its world."""
    letters = base == BASE
    answer = letters_answer if letters else function_answer
    table = dict.fromkeys(LETTERS, INPUTS) if letters else {text: f.inputs for text, f in FUNCTIONS.items()}
    asks = [
        Ask(text, one, answer(text, one))
        for text in describe or table
        for one in input or (INPUTS if letters else table.get(text, ()))
    ]
    if not asks:
        raise CueError("these descriptions are your own; give an --input to answer")
    return Act(hypernetwork, base, described=not letters, asks=tuple(asks))
