"""`weft demo`: answers before and after, for descriptions that the reader may change."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.text import Text

from weft.cli.shared.flags import Flag
from weft.cli.shared.model import BASE, HYPERNETWORK, open_host, open_hypernetwork
from weft.cli.shared.screen import build_table, print_json, stdout
from weft.errors import CueError

# Description -> the operations of the letters world that it means, so that right answers can be computed.
# The single operations are worded as no training task is.
BUILT_IN: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "spell the word backwards": (("reverse", {}),),
    "sort the word alphabetically": (("sort", {}),),
    "delete all vowels from the word": (("drop_vowels", {}),),
    "hide each vowel behind *": (("mask_vowels", {"x": "*"}),),
    "shift each letter one ahead": (("shift_up", {"k": "one"}),),
    "repeat each letter twice": (("double", {}),),
    "reverse the word, then drop the vowels": (("reverse", {}), ("drop_vowels", {})),
}
INPUTS = ("planet", "coffee")


@dataclass(frozen=True)
class Answer:
    """One line of the table."""

    description: str
    input: str
    base: str
    adapted: str
    expected: str | None
    """None where nobody knows: the description is the reader's own."""


def demo(
    *,
    describe: tuple[str, ...] = (),
    input: tuple[str, ...] = (),
    json: Flag = False,
) -> None:
    """Make adapters from sentences; show answers before and after.

    Everything is embedded and runs on the CPU: weft/letters, a small base model
    that works on short strings, and weft/letters-t2l, a hypernetwork that turns
    a description into a LoRA adapter of that base in one forward pass. The
    prompt holds the input alone, so all that the model knows of the task is in
    the adapter. For example:

        weft demo
        weft demo --describe "double every letter" --input weft --input loom

    Args:
        describe: What to do with each input, in words; several make several adapters.
        input: Lower-case letters, or numbers as 3,1,2.
        json: Print JSON.
    """
    descriptions, inputs = describe or tuple(BUILT_IN), input or INPUTS
    if not all(text.strip() for text in descriptions):
        raise CueError("a description is empty; say in words what to do with the input")
    if not json:
        stdout().print(_HEAD)
    start = time.perf_counter()

    import torch

    from weft.engine import Engine
    from weft.types import Description, Mixture

    host = open_host(BASE)
    hyper = open_hypernetwork(HYPERNETWORK, host=host)
    engine = Engine(host)
    loaded = time.perf_counter()
    with torch.no_grad():
        bank = hyper.generate([Description(text) for text in descriptions])
    made = time.perf_counter()
    # One batch holds them all: each input without an adapter, and under every adapter.
    jobs = [(None, text) for text in inputs]
    jobs += [(k, text) for k in range(len(descriptions)) for text in inputs]
    texts = engine.generate(
        [[{"role": "user", "content": text}] for _, text in jobs],
        mixture=Mixture.rows(bank, [k for k, _ in jobs]),
        max_new_tokens=24,
        batch_size=len(jobs),
    )
    done = time.perf_counter()
    answered = dict(zip(jobs, texts, strict=True))
    answers = [
        Answer(description, text, answered[None, text], answered[k, text], expected(description, text))
        for k, description in enumerate(descriptions)
        for text in inputs
    ]
    if json:
        print_json([asdict(answer) for answer in answers])
        return
    _print_answers(answers)
    rank = next(iter(bank.a.values())).shape[1]
    stdout().print(
        f"\nAdapters: {len(bank)} (rank {rank}, {len(bank.sites)} sites) in one forward, "
        f"{made - loaded:.2f} s. Answers: {len(jobs)} in one batch, {done - made:.2f} s. "
        f"Loading: {loaded - start:.1f} s."
    )
    stdout().print(_FOOT, soft_wrap=True)


def expected(description: str, text: str) -> str | None:
    """The right answer to one of the built-in descriptions; None for any other."""
    from weft.tasks.letters.operations import OPERATIONS

    steps = BUILT_IN.get(description)
    if steps is None:
        return None
    for name, parameters in steps:
        text = OPERATIONS[name].apply(text, parameters)
    return text


_HEAD = (
    f"{BASE} is a frozen base; {HYPERNETWORK} turns a sentence into a LoRA adapter for it.\n"
    "The prompt is the input alone: what the model knows of the task is in the adapter.\n"
)
_FOOT = """
Change the sentences:  weft demo --describe "double every letter" --input weft
Keep an adapter:       weft adapt "double every letter" -o out/
Use it:                weft generate "weft" --adapter out/"""


def _print_answers(answers: Sequence[Answer]) -> None:
    known = any(answer.expected is not None for answer in answers)
    table = build_table(
        ["description", "input", "base alone", "adapted", *(["expected", ""] if known else [])]
    )
    before = None
    for answer in answers:
        told = "" if answer.expected is None else "right" if answer.adapted == answer.expected else "wrong"
        cells = [
            Text("" if answer.description == before else answer.description),
            Text(answer.input),
            Text(answer.base, style="dim"),
            Text(answer.adapted, style="bold"),
        ]
        if known:
            cells += [Text(answer.expected or ""), Text(told, style="red" if told == "wrong" else "green")]
        table.add_row(*cells, end_section=False)
        before = answer.description
    stdout().print(table)
