"""One dimension per task name: tasks told apart, with nothing said about their likeness."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weft.embed.text import texts_of
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.types import AbstractEncoder, Cue


class OneHot(AbstractEncoder):
    """The cue's text is a task name; its vector is 1 at that name's place."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = check_names(names)
        self.dim = len(self.names)

    @property
    def identity(self) -> str:
        """Kind and names."""
        return f"onehot:{hash_names(self.names)}"

    def config(self) -> dict[str, Any]:
        """Kind and names."""
        return {"kind": "onehot", "names": list(self.names)}

    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """Rows of the unit matrix. Raises UnknownNameError, CueError."""
        return torch.eye(self.dim)[indices(cues, self.names)]


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple. Raises ConfigError when there are none or one stands twice."""
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"task names must be at least one and all different, got {list(names)}")
    return tuple(names)


def hash_names(names: Sequence[str]) -> str:
    """A short content hash of a list of names."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def indices(cues: Sequence[Cue], names: Sequence[str]) -> list[int]:
    """Each cue's place among the names. Raises UnknownNameError with the nearest one, CueError."""
    place = {name: i for i, name in enumerate(names)}
    texts = texts_of(cues)
    for text in texts:
        if text not in place:
            raise UnknownNameError(f"no task {text!r} among the {len(names)} known{nearest(text, names)}")
    return [place[text] for text in texts]
