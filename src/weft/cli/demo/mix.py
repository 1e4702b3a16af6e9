"""`weft demo --mix`: questions that need a text in the weights and an operation, and who weighs the two."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from weft.cli.demo.context import CONTEXT
from weft.cli.shared.screen import print_json, print_rows, stdout
from weft.cli.shared.traced import print_trace

if TYPE_CHECKING:
    from weft.rows import Request
    from weft.types import Adapter

MIX = "weft/letters-mix"
_HEAD = (
    f"{MIX}: a text that is in the weights alone, an adapter made from a\n"
    "description (asked for by +) and one of a library (asked for by -). Where the\n"
    "answer begins, a mix weighs the three anew, site by site. As a trace, and all:\n"
)
_QUESTIONS = 8


def show_mix(*, json: bool) -> None:
    """Ask eight questions, print the trace of the first, and say what is right."""
    start = time.perf_counter()

    from weft.engine import Engine
    from weft.engine.mixer import Mixer, SavedMix
    from weft.saved import describe
    from weft.train.mix import SOURCES, MixRecipe, MixSources, draw
    from weft.train.recipe import load_base

    saved, _ = describe(MIX, SavedMix)
    run = {"output_dir": MIX, "max_steps": 1}  # of the training, which is over
    recipe = MixRecipe.model_validate({**saved.provenance["recipe"], "context": CONTEXT, "run": run})
    host = load_base(recipe, "cpu", target_modules=["all-linear", "lm_head"])
    mixer, made = Mixer.from_pretrained(MIX, host=host), MixSources.load(recipe, host)
    questions = draw(recipe, "demo", _QUESTIONS)
    banks = made.banks(questions)
    engine = Engine(host)
    loaded = time.perf_counter()

    def sources(request: Request) -> list[Adapter | None]:
        row = int(request.id)
        return [
            None if bank is None else replace(bank[row], name=name)
            for name, bank in zip(SOURCES, banks, strict=True)
        ]

    traces = engine.trace(
        [one.prompt for one in questions], controller=mixer.controller(sources), raw=True, max_new_tokens=20
    )
    done = time.perf_counter()
    rows = []
    for one, trace in zip(questions, traces, strict=True):
        said = engine.tokenizer.decode([t.token_id for t in trace if t.token_id not in engine.stop_ids])
        plus, minus = one.operations
        rows.append(
            {
                "text": one.document.strip(),
                "+": plus,
                "-": minus,
                "asked": one.prompt,
                "answer": said.strip(),
                "expected": one.text,
                "right": "yes" if said.strip() == one.text else "no",
            }
        )
    if json:
        print_json(rows)
        return
    stdout().print(_HEAD)
    print_trace(engine.tokenizer, questions[0].prompt, traces[0])
    stdout().print()
    print_rows(rows)
    right = sum(row["right"] == "yes" for row in rows)
    stdout().print(
        f"\n{right} of {len(rows)} are right. Answers: {done - loaded:.2f} s. "
        f"Loading: {loaded - start:.1f} s."
    )
