"""A kind of text function: what it does to a line of text, and how people ask for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Parameters = dict[str, Any]
"""Values that a kind's phrases name in braces, and that its function reads."""

UNSEEN_PHRASES = 1
"""How many phrases at the end of a kind's `do` and of its `what` are never trained on."""


@dataclass(frozen=True)
class Kind:
    """One function with its phrases; each choice of parameters makes a function of its own."""

    name: str
    reads: str
    """The shape of its input, a key of `inputs.SHAPES`."""
    gives: str
    """The shape of its output, for the functions that may follow; empty where none may."""
    apply: Callable[[str, Parameters], str | None]
    """None where it makes nothing of an input."""
    do: tuple[str, ...]
    """Imperatives without a subject. `{it}` stands for the text."""
    what: tuple[str, ...]
    """Names of the answer."""
    parameters: tuple[Parameters, ...] = ({},)
    unseen_parameters: tuple[Parameters, ...] = ()


def kind(
    name: str,
    shapes: str,
    apply: Callable[[str, Parameters], str | None],
    do: str,
    what: str,
    parameters: tuple[Parameters, ...] = ({},),
    unseen: tuple[Parameters, ...] = (),
) -> Kind:
    """A kind from one line of a table: shapes as `reads -> gives`, phrases parted by `|`."""
    reads, _, gives = shapes.partition("->")
    return Kind(
        name,
        reads.strip(),
        gives.strip(),
        apply,
        tuple(do.split("|")),
        tuple(what.split("|")),
        parameters,
        unseen,
    )


def each(key: str, *values: Any) -> tuple[Parameters, ...]:
    """One choice of parameters per value."""
    return tuple({key: value} for value in values)
