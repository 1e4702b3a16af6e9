"""A trained shift as people use it: a folder, and the controller that it gives for a library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import nn

from weft.config import Rank
from weft.errors import BaseMismatchError, UnknownNameError
from weft.files import nearest
from weft.host import Host
from weft.host.pool import content
from weft.hyper.shift import Shift, ShiftConfig
from weft.hyper.shift_controller import ShiftController
from weft.hyper.speaker import Speaker
from weft.saved import WEIGHTS, Saved, SavedSite, check_base, describe, list_sites, load_module, write
from weft.types import Adapter, Site


class SavedShift(Saved):
    """What `config.json` holds."""

    sort: ClassVar[str] = "shift network"
    kind: Literal["shift"]
    network: ShiftConfig
    sites: tuple[SavedSite, ...]
    head: SavedSite
    control: int = Field(ge=0)
    speaker_rank: Rank
    speaker_scaling: float = Field(gt=0, allow_inf_nan=False)
    budget: Rank
    max_shifts: int = Field(ge=0)
    library: tuple[str, ...]
    """Names of the adapters that it blends, in their order."""
    contents: tuple[str, ...]
    """SHA-256 of each."""
    library_folder: str
    """Where they were found in training."""


@dataclass(frozen=True, eq=False)
class Shifter:
    """A speaker, a shift network, and the library that they were trained with.

    A host needs the sites that the config names, the output head among them (`weft generate --shift`).
    """

    speaker: Speaker
    network: Shift
    library: tuple[str, ...]
    contents: tuple[str, ...]
    library_folder: str = ""
    budget: int = 8
    max_shifts: int = 64
    base: str = ""
    provenance: Mapping[str, Any] | None = None

    @property
    def control(self) -> int:
        """The control token."""
        return self.speaker.controls[0]

    def controller(
        self,
        library: Sequence[Adapter],
        *,
        max_shifts: int | None = None,
        reread: bool = False,
        audible: bool = False,
    ) -> ShiftController:
        """What the loop hears, for adapters among which those of the library are found by name.

        Raises UnknownNameError for one that is missing, BaseMismatchError for one of other weights.
        """
        named = {adapter.name: adapter for adapter in library}
        chosen = []
        for name, digest in zip(self.library, self.contents, strict=True):
            if name not in named:
                raise UnknownNameError(f"the library lacks adapter {name!r}{nearest(name, named)}")
            if content(named[name]) != digest:
                raise BaseMismatchError(
                    f"adapter {name} has other weights than the one of the shift's training"
                )
            chosen.append(named[name])
        return ShiftController(
            self.network,
            self.speaker.adapter(self.base),
            chosen,
            control=self.control,
            budget=self.budget,
            max_shifts=self.max_shifts if max_shifts is None else max_shifts,
            reread=reread,
            audible=audible,
        )

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> None:
        """Write `config.json` and `model.safetensors`. Raises what `weft.saved.write` raises."""
        values = {
            "kind": "shift",
            "base": self.base,
            "network": self.network.config.model_dump(),
            "sites": list_sites(self.speaker.sites),
            "head": list_sites([self.speaker.head])[0],
            "control": self.control,
            "speaker_rank": self.speaker.a[0].shape[0],
            "speaker_scaling": self.speaker.scaling,
            "budget": self.budget,
            "max_shifts": self.max_shifts,
            "library": list(self.library),
            "contents": list(self.contents),
            "library_folder": self.library_folder,
            "provenance": dict(self.provenance or {}),
        }
        parts = nn.ModuleDict({"speaker": self.speaker, "network": self.network})
        write(folder, SavedShift, values, {name: x.to(dtype) for name, x in parts.state_dict().items()})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, host: Host | None = None) -> Shifter:
        """Read a folder, or a shift that ships with Weft. Raises what reading a hypernetwork raises."""
        saved, found = describe(folder, SavedShift)
        check_base(saved, found, host.fingerprint if host else "")
        sites, head = [Site(*values) for values in saved.sites], Site(*saved.head)
        sizes = {"rank": saved.speaker_rank, "scaling": saved.speaker_scaling}

        def build() -> nn.ModuleDict:
            speaker = Speaker(sites, head, [saved.control], **sizes)
            network = Shift(saved.network, sites, width=head.in_features, count=len(saved.library))
            return nn.ModuleDict({"speaker": speaker, "network": network})

        parts = load_module(found / WEIGHTS, build).eval().requires_grad_(False)
        parts.to(None if host is None else host.device)
        return cls(
            cast(Speaker, parts["speaker"]),
            cast(Shift, parts["network"]),
            saved.library,
            saved.contents,
            saved.library_folder,
            saved.budget,
            saved.max_shifts,
            saved.base,
            saved.provenance,
        )
