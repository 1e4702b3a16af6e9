"""A hypernetwork as people use it: a sentence in, an adapter out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from weft.adapters import OnMismatch
from weft.embed.load import EncoderConfig, build_same_encoder
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper.made import Made, bank_of
from weft.hyper.slug import cue_text, slug
from weft.hyper.stack import Stack, StackConfig, build_network
from weft.hyper.t2l import T2L, T2LConfig
from weft.saved import WEIGHTS, Saved, SavedSite, check_base, describe, list_sites, load_module, write
from weft.types import AbstractEncoder, AbstractHyperNetwork, Adapter, Bank, Cue, Description, Factors, Site


class SavedHyperNetwork(Saved):
    """What `config.json` holds."""

    sort: ClassVar[str] = "hypernetwork"
    kind: Literal["hypernetwork"]
    name: str
    encoder: EncoderConfig
    encoder_identity: str
    network: T2LConfig | StackConfig
    sites: tuple[SavedSite, ...]
    """In the order of the network's groups."""


class HyperNetwork(AbstractHyperNetwork):
    """An encoder and the network that turns its vectors into adapters for one base.

    As in Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105). A frozen encoder is no part of
    `state_dict()`.

    Args:
        encoder: Turns a cue into a vector [D].
        network: Turns vectors [B, D] into the factors of all sites.
        base: Fingerprint of the base.
        name: What it is called in its folder's config.
        provenance: Recipe, seed, data hash, metrics, base_model: saved along; adapters repeat its `seed`,
            `base_model` and `target_modules`.

    Example:
        >>> hyper = weft.HyperNetwork.from_pretrained("weft/letters-t2l")
        >>> adapter = hyper.adapt("sort the letters from z to a")
        >>> adapter.name, adapter.rank
        ('sort-the-letters-from-z-to-a', 4)
    """

    def __init__(
        self,
        encoder: AbstractEncoder,
        network: T2L | Stack,
        *,
        base: str = "",
        name: str = "hypernetwork",
        provenance: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.network = network
        self.base = base
        self.name = name
        self.provenance = dict(provenance)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it makes adapters for."""
        return self.network.sites

    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """The encoder's vectors, on the network's device."""
        return self.encoder.encode(cues).to(self.network.trunk.mean)

    def fit_normaliser(self, e_ND: Float[Tensor, "N D"]) -> None:
        """Z-score the network's input by the cue vectors of the training tasks."""
        self.network.trunk.fit_normaliser(e_ND.to(self.network.trunk.mean))

    def generate(self, cues: Sequence[Cue] | Float[Tensor, "B D"], *, levels: int | None = None) -> Bank:
        """One adapter per cue, all sites in one differentiable forward; scaling is folded into b.

        So many `levels` of a stack act above its first; each cue decides unless given. Raises CueError,
        ShapeError for vectors of another length, ConfigError for levels that there are not.
        """
        if isinstance(cues, Tensor):
            names, e_BD = tuple(f"row-{i}" for i in range(cues.shape[0])), cues
        else:
            names, e_BD = tuple(slug(cue) for cue in cues), self.encode(cues)
        return bank_of(self._made(e_BD, levels), names, self.network.config.scaling, self.base)

    def forward(self, cues: Sequence[Cue] | Float[Tensor, "B D"]) -> Bank:
        """`generate`, where something wraps the module and calls it."""
        return self.generate(cues)

    @torch.no_grad()
    def adapt(self, cue: Cue | str, *, name: str | None = None, levels: int | None = None) -> Adapter:
        """One adapter for one cue (text is a description), in evaluation mode and without gradient.

        Its scaling stands apart from B, as alpha over rank. It is named after the cue, or `name`; its
        provenance tells hypernetwork, cue and seed. `levels` as in `generate`. Raises CueError, ConfigError.
        """
        cue = Description(cue) if isinstance(cue, str) else cue
        training = self.training
        self.eval()
        try:
            factors = self._made(self.encode([cue]), levels)
        finally:
            self.train(training)
        repeated = ("seed", "base_model", "target_modules")
        kept = {key: self.provenance[key] for key in repeated if key in self.provenance}
        scaling = self.network.config.scaling
        return Adapter(
            # Copies, because the slices are windows into all sites of a group.
            {s: Factors(_copy(a_KRI[0]), _copy(b_KOR[0]), scaling) for s, (a_KRI, b_KOR) in factors.items()},
            base=self.base,
            name=slug(cue) if name is None else name,
            provenance={"hypernetwork": self.name, "description": cue_text(cue), **kept},
        )

    def _made(self, e_BD: Tensor, levels: int | None) -> Made:
        if isinstance(self.network, Stack):
            return self.network(e_BD, levels)
        if levels is not None and levels != 0:
            raise ConfigError(f"{self.name} is one network, no stack; levels is 0, got {levels}")
        return self.network(e_BD)

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> None:
        """Write `config.json` and `model.safetensors`; a hypernetwork that is there is replaced.

        `dtype` is that of the file: bfloat16 halves it, and is read back into float32.

        Raises SaveError when the disk refuses or the folder holds other files; what was there stays whole.
        """
        values = {
            "kind": "hypernetwork",
            "name": self.name,
            "base": self.base,
            "encoder": self.encoder.config(),
            "encoder_identity": self.encoder.identity,
            "network": self.network.config.model_dump(),
            "sites": list_sites(self.sites),
            "provenance": self.provenance,
        }
        tensors = {key: x.to(dtype) for key, x in self.state_dict().items()}
        write(folder, SavedHyperNetwork, values, tensors)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        host: Host | None = None,
        on_mismatch: OnMismatch = "refuse",
    ) -> HyperNetwork:
        """Read a folder, or a hypernetwork that ships with Weft (`weft/letters-t2l`), in evaluation mode.

        `host` is the base that it is for: checked where given, and read by an encoder that needs one. With
        `on_mismatch` warn or allow another base is taken for its own: one of other precision, say.
        Raises MissingFileError, ConfigError, BaseMismatchError, and WeightsError for damage, NaN, tensors
        other than the config asks for, or an encoder with other weights.
        """
        saved, folder = describe(name_or_folder, SavedHyperNetwork)
        if host is not None and saved.base and host.fingerprint != saved.base and on_mismatch != "refuse":
            if on_mismatch == "warn":
                about = f"hypernetwork {saved.name} is for base {saved.base}, this host is {host.fingerprint}"
                warnings.warn(about, stacklevel=2)
            identity = saved.encoder_identity.replace(saved.base, host.fingerprint)
            saved = saved.model_copy(update={"base": host.fingerprint, "encoder_identity": identity})
        check_base(saved, folder, host.fingerprint if host else "")
        sites = [Site(*values) for values in saved.sites]
        about = {"base": saved.base, "name": saved.name, "provenance": saved.provenance}
        with torch.random.fork_rng(devices=[]):
            encoder = build_same_encoder(saved.encoder, saved.encoder_identity, folder, host)

        def build() -> HyperNetwork:
            return cls(encoder, build_network(saved.network, sites, dim=encoder.dim), **about)

        return load_module(folder / WEIGHTS, build).eval()


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)
