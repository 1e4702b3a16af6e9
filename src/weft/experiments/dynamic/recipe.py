"""The recipe of `weft experiment dynamic`."""

from __future__ import annotations

from pydantic import model_validator

from weft.config import Config
from weft.experiments.dynamic.books import BooksComparison
from weft.experiments.dynamic.context import ContextComparison
from weft.experiments.dynamic.mix import MixComparison
from weft.experiments.dynamic.sheets import SheetsComparison
from weft.experiments.dynamic.shift import ShiftComparison
from weft.experiments.dynamic.stack import StackComparison
from weft.experiments.dynamic.words import WordsComparison


class DynamicRecipe(Config):
    """Sections are measured where they are there."""

    shift: ShiftComparison | None = None
    words: WordsComparison | None = None
    sheets: SheetsComparison | None = None
    books: BooksComparison | None = None
    context: ContextComparison | None = None
    stack: StackComparison | None = None
    mix: MixComparison | None = None
    output: str | None = None
    """The page, a .md file; JSON lies beside it."""

    @model_validator(mode="after")
    def _measures_something(self) -> DynamicRecipe:
        sections = [name for name in type(self).model_fields if name != "output"]
        if all(getattr(self, name) is None for name in sections):
            raise ValueError(f"nothing to measure: give one of {', '.join(sections)}")
        return self
