"""`weft demo --context`: short texts that no prompt holds, answered from the weights that they became."""

from __future__ import annotations

import time

from weft.cli.shared.screen import print_json, print_rows, stdout

CONTEXT = "weft/letters-words"
_HEAD = (
    f"{CONTEXT}: a network reads a text once and writes it into an adapter.\n"
    "The base is then asked for what stood there, and the text is in no prompt. None\n"
    "of these texts is of the training.\n"
)
_TEXTS = 8


def show_context(*, json: bool) -> None:
    """Press eight texts, ask for each, and say what is right."""
    start = time.perf_counter()

    from weft.engine import Engine
    from weft.hyper import ContextNetwork
    from weft.tasks.letters.recalls import document_task
    from weft.types import Bank, Mixture

    network = ContextNetwork.from_pretrained(CONTEXT)
    engine = Engine(network.host)
    tasks = [document_task(f"shown/{number}", words=1) for number in range(_TEXTS)]
    asked = [task.test[0] for task in tasks]
    prompts = [row.prompt for row in asked]
    loaded = time.perf_counter()
    bank = Bank.stack([network.adapt(task.descriptions[0]) for task in tasks])
    pressed = time.perf_counter()
    alone = engine.generate(prompts, max_new_tokens=8)
    known = engine.generate(prompts, mixture=Mixture.rows(bank, range(len(bank))), max_new_tokens=8)
    done = time.perf_counter()
    rows = [
        {
            "text": task.descriptions[0].strip(),
            "asked": row.prompt,
            "base alone": before,
            "from its weights": after,
            "right": "yes" if after == row.completion else "no",
        }
        for task, row, before, after in zip(tasks, asked, alone, known, strict=True)
    ]
    if json:
        print_json(rows)
        return
    stdout().print(_HEAD)
    print_rows(rows)
    right = sum(row["right"] == "yes" for row in rows)
    stdout().print(
        f"\n{right} of {len(rows)} are right. Texts to adapters: {pressed - loaded:.2f} s. "
        f"Answers: {done - pressed:.2f} s. Loading: {loaded - start:.1f} s."
    )
