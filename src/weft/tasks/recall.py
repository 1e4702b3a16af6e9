"""A question that needs a document and an operation at once, in whatever world it is drawn."""

from __future__ import annotations

from typing import NamedTuple

SIGNS = ("+", "-")


class Recall(NamedTuple):
    """One question; its sign alone says which of two operations is meant."""

    document: str
    sign: str
    operations: tuple[str, str]
    """Names of the tasks behind + and -."""
    prompt: str
    word: str
    """What the document says."""
    said: str
    """What is written first: the word, up to and with the event."""
    answer: str
    """What is written behind the event: what becomes of the word."""

    @property
    def text(self) -> str:
        """All that is to be written."""
        return self.said + self.answer
