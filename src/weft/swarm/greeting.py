"""What the stages of a spread host say of themselves when they are met, and whether that makes one base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from weft.adapters import site_at
from weft.errors import ConfigError
from weft.swarm.message import Message
from weft.types import Site


@dataclass(frozen=True)
class Greeting:
    """One base, as its stages describe it."""

    fingerprint: str
    sites: tuple[tuple[Site, ...], ...]
    """By stage."""
    window: int | None
    vocab_size: int
    hidden: int
    dtype: torch.dtype
    """Of the states that go from stage to stage."""


def greeted(told: Sequence[Message]) -> Greeting:
    """What stages in the order of their layers make together. Raises ConfigError where that is no base."""
    if not told:
        raise ConfigError("a spread host needs a stage")
    first = told[0].fields
    for one in told[1:]:
        for field in ("base", "layers", "vocab_size", "hidden", "dtype"):
            if one.fields[field] != first[field]:
                raise ConfigError(f"the stages have {field} {first[field]} and {one.fields[field]}")
    places = [(one.whole("first"), one.whole("last")) for one in told]
    ends = [0, *(last for _, last in places)]
    if [begin for begin, _ in places] != ends[:-1] or ends[-1] != first["layers"]:
        shown = ", ".join(f"{i}-{j}" for i, j in places)
        raise ConfigError(f"stages of layers {shown} do not make a base of {first['layers']} layers")
    return Greeting(
        told[0].text("base"),
        tuple(tuple(site_at(*site) for site in one.list("sites")) for one in told),
        first["window"],
        told[0].whole("vocab_size"),
        told[0].whole("hidden"),
        getattr(torch, told[0].text("dtype").removeprefix("torch.")),
    )
