"""A trained mix as people use it: a folder, and the controller that it gives for the sources of some rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from pydantic import Field
from torch import nn

from weft.config import Rank
from weft.engine.mixing import MixController, Sources
from weft.host import Host
from weft.hyper.speaker import Speaker
from weft.hyper.window import WindowController
from weft.route.mix import Mix, MixConfig
from weft.rows import Request
from weft.saved import WEIGHTS, Saved, SavedSite, check_base, describe, list_sites, load_module, write
from weft.types import Site


class SavedMix(Saved):
    """What `config.json` holds."""

    sort: ClassVar[str] = "mix"
    kind: Literal["mix"]
    network: MixConfig
    sites: tuple[SavedSite, ...]
    head: SavedSite
    sources: tuple[str, ...] = Field(min_length=1)
    """What the sources are, in their order, in words."""
    tokens: tuple[int, ...]
    """Tokens that it listens to."""
    speaker_rank: Rank
    speaker_scaling: float = Field(gt=0, allow_inf_nan=False)


@dataclass(frozen=True, eq=False)
class Mixer:
    """A speaker, and the network that mixes sources beside it."""

    speaker: Speaker
    mix: Mix
    sources: tuple[str, ...]
    tokens: tuple[int, ...]
    base: str = ""
    provenance: Mapping[str, Any] | None = None

    def controller(
        self, sources: Callable[[Request], Sources], *, window: WindowController | None = None
    ) -> MixController:
        """What the loop hears; `sources` says what a request has, in the order of `self.sources`."""
        return MixController(
            self.mix,
            sources,
            tokens=self.tokens,
            window=window,
            speaker=self.speaker.adapter(self.base),
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors`. Raises what `weft.saved.write` raises."""
        values = {
            "kind": "mix",
            "base": self.base,
            "network": self.mix.config.model_dump(),
            "sites": list_sites(self.mix.sites),
            "head": list_sites([self.speaker.head])[0],
            "sources": list(self.sources),
            "tokens": list(self.tokens),
            "speaker_rank": self.speaker.a[0].shape[0],
            "speaker_scaling": self.speaker.scaling,
            "provenance": dict(self.provenance or {}),
        }
        parts = nn.ModuleDict({"speaker": self.speaker, "mix": self.mix})
        write(folder, SavedMix, values, parts.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, host: Host | None = None) -> Mixer:
        """Read a folder, frozen. Raises what reading a hypernetwork raises."""
        saved, found = describe(folder, SavedMix)
        check_base(saved, found, host.fingerprint if host else "")
        sites, head = [Site(*values) for values in saved.sites], Site(*saved.head)
        sizes = {"rank": saved.speaker_rank, "scaling": saved.speaker_scaling}

        def build() -> nn.ModuleDict:
            speaker, mix = build_mix(sites, head, saved.network, sources=len(saved.sources), **sizes)
            return nn.ModuleDict({"speaker": speaker, "mix": mix})

        parts = load_module(found / WEIGHTS, build).eval().requires_grad_(False)
        parts.to(None if host is None else host.device)
        speaker, mix = cast(Speaker, parts["speaker"]), cast(Mix, parts["mix"])
        return cls(speaker, mix, saved.sources, saved.tokens, saved.base, saved.provenance)


def build_mix(
    sites: Sequence[Site], head: Site, config: MixConfig, *, sources: int, rank: int, scaling: float
) -> tuple[Speaker, Mix]:
    """A fresh speaker and mix, from the global random state. Raises ConfigError for no sources."""
    speaker = Speaker(sites, head, [], rank=rank, scaling=scaling)
    return speaker, Mix(config, sites, width=head.in_features, sources=sources)
