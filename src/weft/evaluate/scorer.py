"""The scores of one condition after another, on test rows of the same tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from weft.engine import Engine
from weft.evaluate.answer import Question, answer_questions, ask
from weft.evaluate.conditions import Condition
from weft.evaluate.metrics import METRICS, exact_match, loss, rouge_l
from weft.evaluate.options import Options
from weft.tasks import Task
from weft.types import Mixture


class Scorer:
    """Scores rows, each once: an answer that several seeds or conditions share is remembered.

    A remembered answer is known by its row, the description in its prompt and the adapter's key.
    """

    def __init__(
        self, engine: Engine, tasks: Sequence[Task], options: Options, *, shortcut: bool = True
    ) -> None:
        self.engine = engine
        self.tasks = tuple(tasks)
        self.options = options
        self.shortcut = shortcut
        self._questions: dict[tuple[int, int, str | None], Question] = {}
        self._scores: dict[tuple[int, int, str | None, str], tuple[float, ...]] = {}

    def fits(self, task: int, row: int, description: str) -> bool:
        """Whether the window holds the row with its description, and room for an answer."""
        question = self._question(task, row, description)
        needed = max(len(question.encoded.ids), len(question.prompt_ids) + self.options.max_new_tokens)
        return self.engine.host.window is None or needed <= self.engine.host.window

    def score(
        self,
        condition: Condition,
        rows_N: Sequence[Sequence[int]],
        description_N: Sequence[str],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Float[np.ndarray, "N M X"]:
        """The metrics of the given rows of every task; NaN for other rows, and where it cannot be run."""
        scores_NMX = np.full((len(self.tasks), max(len(t.test) for t in self.tasks), len(METRICS)), np.nan)
        adapters: dict[tuple[int, int, str | None, str], int] = {}
        for n, (adapter, key) in enumerate(zip(condition.adapter_N, condition.key_N, strict=True)):
            description = description_N[n] if condition.described else None
            if adapter is None:
                progress(len(rows_N[n]))
            else:
                adapters |= {(n, m, description, key): adapter for m in rows_N[n]}
        new = [place for place in adapters if place not in self._scores]
        progress(len(adapters) - len(new))
        mixture = None
        if condition.bank is not None:
            bank = condition.bank.to(self.engine.host.device)
            mixture = Mixture.rows(bank, [adapters[place] for place in new])
        answers = answer_questions(
            self.engine,
            [self._question(n, m, description) for n, m, description, _ in new],
            mixture,
            max_new_tokens=self.options.max_new_tokens,
            batch_size=self.options.batch_size,
            shortcut=self.shortcut,
            progress=progress,
        )
        for place, found in zip(new, answers, strict=True):
            references = self.tasks[place[0]].test[place[1]].answers
            self._scores[place] = (
                exact_match(found.text, references),
                rouge_l(found.text, references),
                loss(found.nll, found.tokens),
            )
        for place in adapters:
            scores_NMX[place[0], place[1]] = self._scores[place]
        return scores_NMX

    def _question(self, n: int, m: int, description: str | None) -> Question:
        place = (n, m, description)
        if place not in self._questions:
            self._questions[place] = ask(self.engine.tokenizer, self.tasks[n].test[m], description)
        return self._questions[place]
