"""Descriptions of a function, as people write them: orders, questions, specifications, terse, by example."""

import random
from collections.abc import Sequence

from weft.tasks.functions.inputs import SHAPE_NAMES
from weft.tasks.functions.kind import UNSEEN_PHRASES, Kind, Parameters
from weft.tasks.manners import dress

_DO = (
    "{do}", "{do}", "{do}.", "{Do}", "{Do}.", "{Do}.", "Please {do}.", "please {do}", "{Do}, nothing else.",
    "Task: {do}.", "Your job: {do}.", "I want you to {do}.", "You get {input}. {Do}.", "Given {input}, {do}.",
    "The input is {input}. {Do}.", "{Do} and answer with the result only.", "For every line, {do}.",
    "I need a function that can {do}", "When I send {input}, {do}.",
)  # fmt: skip
_WHAT = (
    "{what}", "{what}", "{What}.", "What is {what}?", "{what} only", "Output: {what}", "Reply with {what}.",
    "Return {what}.", "I only need {what}.", "in: {input}, out: {what}", "Give me {what}, please.",
    "Input: {input}. Output: {what}.", "Answer with {what}, no explanation.", "{input} -> {what}",
)  # fmt: skip
_EXAMPLE = (
    "{Do}. Example: {x} -> {y}", "{Do}, for example {x} becomes {y}", "{What}, e.g. {x} gives {y}",
)  # fmt: skip
_UNSEEN_DO = (
    "Could you {do}?", "hey, can you {do} for me", "Now {do}, thanks!", "Just {do}.",
    "Whatever I type, {do}.", "Would you mind to {do}?",
)  # fmt: skip
_UNSEEN_WHAT = (
    "Let me have {what}.", "Show {what} and no more.", "I would like to see {what}", "Tell me {what}.",
    "My app needs {what} from {input}.",
)  # fmt: skip
_JOINS = (
    "{0}, then {1}", "first {0}, then {1}", "{0} and then {1}", "{0}; after that {1}", "{0} and {1}",
    "{0}, and finally {1}", "step 1: {0}, step 2: {1}",
)  # fmt: skip
_UNSEEN_JOINS = ("first {0} and after that {1}", "{0}, after that {1}", "{0}. Then {1}")

Step = tuple[Kind, Parameters]


def describe(
    steps: Sequence[Step], rng: random.Random, count: int, example: tuple[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`count` descriptions to train on and a quarter as many unseen ones, all different.

    An unseen one has a phrase, a style or a joint that no training description has. `example` is a row
    that some descriptions quote.
    """
    known = _distinct(lambda: _write(steps, rng, example, unseen=False), count, ())
    return known, _distinct(lambda: _write(steps, rng, example, unseen=True), max(count // 4, 1), known)


def mannered(steps: Sequence[Step], rng: random.Random) -> str:
    """One more description to train on, an order in some person's manner, of phrases that are trained on."""
    phrases = [
        _fill(rng.choice(_part(kind.do, False)), "the text" if i == 0 else "it", parameters)
        for i, (kind, parameters) in enumerate(steps)
    ]
    return dress(phrases[0] if len(phrases) == 1 else rng.choice(_JOINS).format(*phrases), rng)


def _distinct(write, count: int, taken: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for _ in range(60 * count):
        text = write()
        if text not in taken:
            found[text] = None
        if len(found) == count:
            break
    return tuple(found)


def _write(steps: Sequence[Step], rng: random.Random, example: tuple[str, str], *, unseen: bool) -> str:
    kind, parameters = steps[0]
    single = len(steps) == 1
    by_example = rng.random() < 0.12 and len("".join(example)) < 60
    if single and rng.random() < 0.4:
        new_phrase = unseen and rng.random() < 0.5
        what = _fill(rng.choice(_part(kind.what, new_phrase)), "the text", parameters)
        styles = _UNSEEN_WHAT if unseen and not new_phrase else _WHAT
        text = rng.choice(styles).format(what=what, What=_capital(what), input=SHAPE_NAMES[kind.reads])
        return text
    new_phrase = unseen and rng.random() < 0.5
    phrases = [
        _fill(
            rng.choice(_part(kind.do, new_phrase)),
            rng.choice(("the text", "it", "the input") if i == 0 else ("it", "the result", "that")),
            parameters,
        )
        for i, (kind, parameters) in enumerate(steps)
    ]
    if single:
        do = phrases[0]
    else:
        joins = _UNSEEN_JOINS if unseen and not new_phrase and rng.random() < 0.5 else _JOINS
        do = rng.choice(joins).format(*phrases)
        if joins is _UNSEEN_JOINS:
            new_phrase = True
    if by_example and not unseen:
        what = _fill(rng.choice(_part(kind.what, False)), "the text", parameters) if single else do
        style = rng.choice(_EXAMPLE)
    else:
        what, style = "", rng.choice(_UNSEEN_DO if unseen and not new_phrase else _DO)
    return style.format(
        do=do, Do=_capital(do), What=_capital(what), input=SHAPE_NAMES[kind.reads], x=example[0], y=example[1]
    )


def _part(phrases: tuple[str, ...], unseen: bool) -> tuple[str, ...]:
    return phrases[-UNSEEN_PHRASES:] if unseen else phrases[:-UNSEEN_PHRASES]


def _fill(phrase: str, it: str, parameters: Parameters) -> str:
    for key, value in parameters.items():
        phrase = phrase.replace("{" + key + "}", str(value))
    return phrase.replace("{it}", it)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
