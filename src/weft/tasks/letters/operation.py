"""What a primitive operation of the letters world is, and the numbers that it may take.

A phrase is an imperative without a subject, so that phrases join into compositions; `{s}` stands for the
string and `{x}`, `{y}`, `{k}` for parameters. The last three phrases of an operation are never trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

VOWELS = "aeiou"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
UNSEEN_PHRASES = 3
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}

Parameters = dict[str, str]


@dataclass(frozen=True)
class Operation:
    """One primitive: a function on a string (or on a comma-separated list of digits) and its phrases."""

    name: str
    apply: Callable[[str, Parameters], str]
    phrases: tuple[str, ...]
    parameters: tuple[Parameters, ...] = ({},)
    unseen_parameters: tuple[Parameters, ...] = ()
    kind: Literal["string", "list"] = "string"
    last: bool = False
    """Whether its output is no longer a string (or list) that others can act on."""


def counts(*words: str) -> tuple[Parameters, ...]:
    """The parameter k as each of these number words."""
    return tuple({"k": word} for word in words)


def number(parameters: Parameters) -> int:
    """The parameter k as a number."""
    return _NUMBERS[parameters["k"]]
