"""The name language: what the `model` field of a request may say.

base                        the base alone; its own name says the same
NAME                        an adapter on the shelf
store:[STORE/]NAME[@REV]    an adapter of a store, at a commit, branch or tag (HEAD unless given)
gen:TEXT                    an adapter made on the spot from a description
blend:0.7*A+0.3*B           a weighted sum; A and B are NAME or store:...
route:LIBRARY               each request chooses from a library
tree:NAME                   a tree of adapters
shift:NAME                  the model changes its adapters while it answers
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from weft.errors import ConfigError
from weft.files import is_name

LONGEST = 2000
"""Characters of a name."""
MOST_PARTS = 16
"""Adapters in one blend."""

_WEIGHT = re.compile(r"(?:^|\+)([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True, slots=True)
class Base:
    """The base alone."""


@dataclass(frozen=True, slots=True)
class Named:
    """An adapter on the shelf."""

    name: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An adapter of a store; an empty store name is the only one there is."""

    store: str
    name: str
    revision: str


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter from a description."""

    text: str


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted sum."""

    parts: tuple[tuple[Named | Stored, float], ...]


@dataclass(frozen=True, slots=True)
class Routed:
    """A choice from a library."""

    library: str


@dataclass(frozen=True, slots=True)
class Planted:
    """A tree."""

    tree: str


@dataclass(frozen=True, slots=True)
class Shifted:
    """Adapters that the model itself changes while it answers."""

    shift: str


Spec = Base | Named | Stored | Made | Blend | Routed | Planted | Shifted


def parse(model: str) -> Spec:
    """What a name means. Raises ConfigError for one that is not of the language."""
    if len(model) > LONGEST:
        raise ConfigError(f"a model name has at most {LONGEST} characters, this one has {len(model)}")
    kind, colon, rest = model.partition(":")
    if not colon:
        return Base() if model == "base" else _named(model)
    match kind:
        case "store":
            return _stored(rest)
        case "gen":
            if not rest.strip():
                raise ConfigError("gen: needs a description of the task, such as gen:sort the letters")
            return Made(rest.strip())
        case "blend":
            return Blend(_parts(rest))
        case "route":
            return Routed(_checked(rest))
        case "tree":
            return Planted(_checked(rest))
        case "shift":
            return Shifted(_checked(rest))
    raise ConfigError(
        f"no kind of name {kind!r:.40}; there are base, NAME, store:, gen:, blend:, route:, tree: and shift:"
    )


def _parts(text: str) -> tuple[tuple[Named | Stored, float], ...]:
    cuts = list(_WEIGHT.finditer(text))
    if not cuts or cuts[0].start():
        raise ConfigError(f"a blend is written blend:0.7*a+0.3*b, not blend:{text!r:.80}")
    if len(cuts) > MOST_PARTS:
        raise ConfigError(f"a blend has at most {MOST_PARTS} adapters, this one has {len(cuts)}")
    ends = [cut.start() for cut in cuts[1:]] + [len(text)]
    parts = []
    for cut, end in zip(cuts, ends, strict=True):
        name, weight = text[cut.end() : end].strip(), float(cut[1])
        if abs(weight) > 100:
            raise ConfigError(f"weights of a blend run from -100 to 100, got {weight}")
        stored = name.startswith("store:")
        parts.append((_stored(name.removeprefix("store:")) if stored else _named(name), weight))
    return tuple(parts)


def _stored(text: str) -> Stored:
    path, _, revision = text.partition("@")
    store, slash, name = path.rpartition("/")
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"{revision!r:.80} is no revision; give a commit, a branch or a tag")
    return Stored(_checked(store) if slash else "", _checked(name), revision or "HEAD")


def _named(name: str) -> Named:
    return Named(_checked(name))


def _checked(name: str) -> str:
    if not is_name(name):
        raise ConfigError(
            f"{name!r:.80} is no name; names have letters, digits and . _ - + and at most 100 characters"
        )
    return name
