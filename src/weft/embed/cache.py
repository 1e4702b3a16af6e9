"""Vectors on disk, by the content of encoder and text, so that a description is encoded once.

A call that meets new texts writes a new file for each thousand of them, whole or not at all, so any number of
processes may share a folder, and one that is stopped goes on where it was.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from safetensors.torch import save
from torch import Tensor

from weft.embed.text import texts_of
from weft.errors import ConfigError, SaveError, WeightsError
from weft.files import replace_file
from weft.saved import read_tensors
from weft.types import AbstractEncoder, Cue

_AT_ONCE = 1000
"""Texts of a file; where there are more to encode, a bar tells how far it is."""


class Cached(AbstractEncoder):
    """A frozen encoder with a memory: in this process, and in a folder.

    It saves and identifies as the encoder inside, and gives the vectors on the CPU.
    Raises ConfigError for an encoder that learns, since its vectors change.
    """

    def __init__(self, encoder: AbstractEncoder, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ConfigError("an encoder that learns cannot be cached: its vectors change")
        self.encoder = encoder
        self.dim = encoder.dim
        self._identity = encoder.identity
        self._folder = Path(folder) / hashlib.sha256(self._identity.encode()).hexdigest()[:16]
        self._known: dict[str, Tensor] = {}
        self._read: set[str] = set()

    @property
    def identity(self) -> str:
        """The identity of the encoder inside."""
        return self._identity

    def config(self) -> dict[str, Any]:
        """The config of the encoder inside."""
        return self.encoder.config()

    @torch.no_grad()
    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """The encoder's vectors, each computed once.

        Raises CueError, and WeightsError for a damaged file, which may be deleted.
        """
        texts = texts_of(cues)
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        if any(key not in self._known for key in keys):
            self._recall()
        missing = {key: cue for key, cue in zip(keys, cues, strict=True) if key not in self._known}
        if missing:
            self._encode_new(list(missing.items()))
        return torch.stack([self._known[key] for key in keys]) if keys else torch.zeros(0, self.dim)

    def _encode_new(self, missing: Sequence[tuple[str, Cue]]) -> None:
        """Encode texts that are not known and keep them, a file at a time."""
        for start in track(
            range(0, len(missing), _AT_ONCE),
            f"{len(missing)} texts to encode",
            console=Console(stderr=True),
            disable=len(missing) <= _AT_ONCE,
        ):
            part = missing[start : start + _AT_ONCE]
            vectors = self.encoder.encode([cue for _, cue in part]).float().cpu()
            fresh = {key: vector.clone() for (key, _), vector in zip(part, vectors, strict=True)}
            content = save(fresh)
            name = f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
            self._known |= fresh
            try:
                replace_file(self._folder / name, content)
            except SaveError as error:  # a home that is read-only, a full disk: nothing is lost but time
                warnings.warn(f"{error}; its vectors are computed again next time", stacklevel=2)
            else:
                self._read.add(name)

    def _recall(self) -> None:
        """Take in the files that this process has not read yet, in the order of their names."""
        for file in sorted(self._folder.glob("*.safetensors")):
            if file.name in self._read:
                continue
            try:
                found = read_tensors(file)
            except WeightsError as error:
                raise WeightsError(f"{error}; delete it, and its vectors are computed again") from error
            for key, vector in found.items():
                if vector.shape != (self.dim,):
                    raise WeightsError(
                        f"{file}: a vector has shape {list(vector.shape)}, not [{self.dim}]; delete the file"
                    )
                self._known.setdefault(key, vector)
            self._read.add(file.name)
