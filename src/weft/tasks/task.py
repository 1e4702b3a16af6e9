"""A row, and a task: what an adapter is for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from weft.errors import ConfigError
from weft.files import is_name
from weft.reading import shown
from weft.tasks.gibberish import noise
from weft.types import Cue, Description, Image

ROLES = ("system", "user", "assistant", "tool")
"""The roles that a turn of a chat may have."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a question with its answer, the end of a chat, or a plain text.

    The three are one value. A chat keeps the turns before its last question in `history`; a plain text has
    no prompt, all of it is completion. Raises ConfigError for a row without any text, a role
    unknown, or choices without the completion.

    Args:
        prompt: The last question; empty for a plain text, and where the history ends with what a tool said.
        completion: What the model should say. May be empty where there is a prompt: the model then just ends.
        references: All accepted answers; empty means the completion alone.
        history: The (role, content) turns before the prompt.
        choices: All answers that may be chosen, the completion among them; empty where an answer is free.
        unlearned: Places in the history of turns that are only read, also where every answer is learned.

    Example:
        >>> from weft.tasks import Row
        >>> Row("cab >", "abc").question
        (('user', 'cab >'),)
    """

    prompt: str
    completion: str
    references: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()
    unlearned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.prompt or self.completion or self.history):
            raise ConfigError("a row needs a prompt or a completion, both are empty")
        if self.choices and (self.completion not in self.choices or len(self.choices) < 2):
            raise ConfigError(
                f"the completion {shown(self.completion)} should be one of two or more choices, got "
                f"{shown(self.choices)}"
            )
        for role, _ in self.history:
            if role not in ROLES:
                raise ConfigError(f"a turn's role is one of {', '.join(ROLES)}, got {shown(role)}")

    @property
    def answers(self) -> tuple[str, ...]:
        """All accepted answers, at least one."""
        return self.references or (self.completion,)

    @property
    def is_text(self) -> bool:
        """Whether it is a plain text, without a question."""
        return not (self.prompt or self.history)

    @property
    def question(self) -> tuple[tuple[str, str], ...]:
        """The (role, content) turns up to the answer, which may also follow what a tool has said."""
        if not self.prompt and self.history and self.history[-1][0] == "tool":
            return self.history
        return (*self.history, ("user", self.prompt))

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """The whole chat as (role, content) turns."""
        return (*self.question, ("assistant", self.completion))


@dataclass(frozen=True)
class Task:
    """One thing to learn: a name, wordings of what to do, and rows that show it.

    Raises ConfigError for a bad name, no description, an empty or repeated one, a wording both seen and
    unseen, or no rows at all. Either part may be empty: a held-out task needs no train rows.

    Args:
        name: Also that of its folder: letters, digits, `.`, `_`, `-`; `+` joins the parts of a composition.
        descriptions: Wordings for training; the first is the main one.
        train: Rows to train on.
        test: Rows to measure on.
        unseen_descriptions: Wordings kept for evaluation.
        category: What it is counted with.
        labels: The closed set of answers of a classification task.
        licence: Of its rows.
        image: A picture that stands in the place of the description.
        unanswered: Rows that the description does not answer, though they are like those that it does.

    Example:
        >>> from weft.tasks import Row, Task
        >>> task = Task("sort", descriptions=("sort the letters",), train=(Row("cab >", "abc"),))
    """

    name: str
    descriptions: tuple[str, ...]
    train: tuple[Row, ...] = ()
    test: tuple[Row, ...] = ()
    unseen_descriptions: tuple[str, ...] = ()
    category: str = ""
    labels: tuple[str, ...] = ()
    licence: str = ""
    image: Image | None = None
    """A picture that its rows ask about; adapters are then made from it, not from a description."""
    unanswered: tuple[Row, ...] = ()
    """Rows that the description does not answer; what they are answered with should not be said."""

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ConfigError(
                f"{shown(self.name)} cannot name a task: use letters, digits and . _ - +, at most 100 in all"
            )
        if not self.descriptions:
            raise ConfigError(f"task {self.name} has no description; give at least one")
        seen: set[str] = set()
        for text in (*self.descriptions, *self.unseen_descriptions):
            if not text.strip():
                raise ConfigError(f"task {self.name} has an empty description; write it or remove it")
            if text in seen:
                raise ConfigError(f"task {self.name} has the description {shown(text)} twice; remove one")
            seen.add(text)
        if not (self.train or self.test):
            raise ConfigError(f"task {self.name} has no rows, neither train nor test")

    def cue(self, description: str) -> Cue:
        """What an adapter is made from: the picture where there is one, else this wording."""
        return Description(description) if self.image is None else self.image

    def meaningless(self, text: str) -> Cue:
        """A cue of the same kind that says nothing: this text, or for a picture noise that the text draws."""
        return Description(text) if self.image is None else noise(self.image, text)

    @property
    def mean_length(self) -> float:
        """Mean characters of its train rows, or of its test rows where it has no others."""
        return fmean(len(row.prompt) + len(row.completion) for row in self.train or self.test)

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of all that it holds, the same in every process."""
        content = {
            "name": self.name,
            "descriptions": self.descriptions,
            "unseen_descriptions": self.unseen_descriptions,
            "category": self.category,
            "labels": self.labels,
            "licence": self.licence,
            "train": [_content(row) for row in self.train],
            "test": [_content(row) for row in self.test],
        }
        if self.image is not None:  # left out elsewhere, so that tasks without one keep their hashes
            content["image"] = image_hash(self.image)
        if self.unanswered:
            content["unanswered"] = [_content(row) for row in self.unanswered]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def image_hash(image: Image) -> str:
    """Of its size and its pixels."""
    size = "{} {} ".format(*image.pixels_HWC.shape).encode()
    return hashlib.sha256(size + image.pixels_HWC.contiguous().cpu().numpy().tobytes()).hexdigest()


def _content(row: Row) -> tuple[object, ...]:
    plain = (row.prompt, row.completion, row.references, row.history)
    if row.unlearned:
        return (*plain, row.choices, row.unlearned)
    return (*plain, row.choices) if row.choices else plain


def hash_tasks(tasks: Sequence[Task]) -> str:
    """SHA-256 over the data hashes of tasks, in their order: what a run's provenance records."""
    return hashlib.sha256("".join(task.data_hash for task in tasks).encode()).hexdigest()
