"""`weft demo --shift`: one answer of several tasks, and what acted on every token of it."""

from __future__ import annotations

import time

from weft.cli.shared.controlled import load_controlled
from weft.cli.shared.model import ModelFlags
from weft.cli.shared.screen import print_json, stdout
from weft.cli.shared.traced import print_trace

SHIFT = "weft/letters-shift"
_HEAD = (
    f"{SHIFT}: the model says a control token (reversed below) when the next line needs another adapter;\n"
    "the state behind it becomes a vector, and a network turns that into what acts next. The names A to J\n"
    "say nothing by themselves. Each line of the answer stands beside the task that its name means.\n"
)


def show_shift(*, json: bool) -> None:
    """Answer one held-out stream of three tasks, print its trace, and say what is right."""
    start = time.perf_counter()

    from weft.engine import Engine
    from weft.hyper.shifter import SavedShift
    from weft.saved import describe
    from weft.tasks.letters.streams import LetterStreams
    from weft.tasks.streams import answers_of

    saved, _ = describe(SHIFT, SavedShift)
    data = saved.provenance["recipe"]["data"]
    streams = LetterStreams(tuple(data["tasks"]), seed=data["seed"], held_out=data["held_out"])
    (stream,) = streams.test(1, [3])
    host, _, _, controller = load_controlled(ModelFlags(), SHIFT)
    engine = Engine(host)
    loaded = time.perf_counter()
    (traced,) = engine.trace([stream.prompt], controller=controller, raw=True, max_new_tokens=80)
    done = time.perf_counter()
    written = [t.token_id for t in traced if not t.silent and t.token_id not in engine.stop_ids]
    said = answers_of(engine.tokenizer.decode(written), stream.parts)
    rows = [
        {"task": part.task, "answer": answer, "expected": part.answer, "right": answer == part.answer}
        for part, answer in zip(stream.parts, said, strict=True)
    ]
    if json:
        print_json({"prompt": stream.prompt, "lines": rows})
        return
    stdout().print(_HEAD)
    print_trace(engine.tokenizer, stream.prompt, traced)
    for part, row in zip(stream.parts, rows, strict=True):
        told = "right" if row["right"] else f"wrong, it is {part.answer}"
        stdout().print(f"{part.lead}  {part.task}: {row['answer']} ({told})", markup=False)
    stdout().print(f"\nAnswer: {done - loaded:.2f} s. Loading: {loaded - start:.1f} s.")
