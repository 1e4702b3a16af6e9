"""What one answer is worth: exact match, ROUGE-L, loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from weft.errors import MissingExtraError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

METRICS = ("exact_match", "rouge_l", "loss")
"""Names of the metrics; of `loss` less is better, of the others more."""


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is one of the accepted answers, white space around either left out; else 0.

    Args:
        prediction: What a model said.
        answers: All that is right.

    Example:
        >>> from weft.evaluate import exact_match
        >>> exact_match("abc", ["abc", "a b c"])
        1.0
    """
    return float(prediction.strip() in {answer.strip() for answer in answers})


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """The best ROUGE-L F1 in [0, 1] over the accepted answers (Lin 2004), as `rouge-score` computes it.

    Stemmed, as Natural Instructions does. It reads lower-cased runs of a-z and 0-9 alone, so an answer
    without any scores 0 even against itself. Raises MissingExtraError.
    """
    return float(max(_scorer().score(answer, prediction)["rougeL"].fmeasure for answer in answers))


def loss(nll: float, tokens: int) -> float:
    """Mean nats per completion token, its end included."""
    return nll / tokens


@cache
def _scorer() -> RougeScorer:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("ROUGE-L needs the extra eval: pip install 'weft[eval]'") from error
    return RougeScorer(["rougeL"], use_stemmer=True)
