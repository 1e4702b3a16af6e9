r"""Questions that need a fact sheet and a function of its value at once, in plain English.

    sheet      Tarvik sells boats.
    question   Task + : What does Tarvik sell? Tarvik sells
    goes on    boats. Task +\n<|im_start|>user\nboats\n<|im_start|>assistant\n(boats)

`+` asks for what one adapter does and `-` for what another does: which functions those are, the question does
not say. Behind the sign the value is asked as a user would ask, which adapters of functions are trained on,
in the marks of ChatML (SmolLM2, Qwen).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from weft.errors import ConfigError
from weft.tasks.facts.sheets import Split, sheet_task
from weft.tasks.functions.world import World
from weft.tasks.recall import SIGNS, Recall

_TRIES = 1000


def draw_fact_recall(
    rng: random.Random, operations: Sequence[str], *, split: Split, facts: int = 1
) -> Recall:
    """A question to a sheet of so many facts, with two of the functions.

    Raises ConfigError for fewer, for those that do not read any text, and where no two of them differ.
    """
    if len(set(operations)) < 2:
        raise ConfigError(f"a recall takes two different functions or more, got {list(operations)}")
    world = World()
    for name in operations:
        if (reads := world.shape(name)) != "any":
            raise ConfigError(f"{name} reads {reads}; what is asked of a fact has to read any text")
    for _ in range(_TRIES):
        sheet = sheet_task(str(rng.random()), facts=facts, split=split)
        row = rng.choice(sheet.test)
        word = row.completion.strip(" .")
        first, second = rng.sample(list(operations), 2)
        answers = [world.answer(name, word) for name in (first, second)]
        if None in answers or len({word, *answers}) < 3:
            continue
        place = rng.randrange(2)
        sign = SIGNS[place]
        return Recall(
            document=sheet.descriptions[0],
            sign=sign,
            operations=(first, second),
            prompt=f"Task {sign} : {row.prompt}",
            word=word,
            said=f"{row.completion} Task {sign}",
            answer=f"\n<|im_start|>user\n{word}\n<|im_start|>assistant\n{answers[place]}",
        )
    raise ConfigError(f"{', '.join(operations)} make the same of {_TRIES} facts; choose others")
