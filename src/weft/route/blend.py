"""Blend: a network from a request's vector to softmax weights over a labelled library, trained on task loss.

    q = e + F(sqrt(D) e) / sqrt(D)     k_i = l_i + G l_i / sqrt(D)
    w = softmax_i(cos(q, k_i) / temperature)     y = W x + sum_i w_i B_i A_i x

e is the unit vector of the request, l_i that of adapter i's label, both by one encoder, of length D; of
several descriptions it is the mean. F is a perceptron of one hidden layer and G a matrix; their last weights
start at 0, so the network begins as retrieval by label and learns what that gets wrong. By the square roots a
step of Adam at a usual rate moves queries and keys by a part of their length, not by more than all of it.
Keys follow from labels: adapters may come and go without another training.

It is the attention of AdapterFusion (Pfeiffer et al. 2021, arXiv 2005.00247), moved from hidden states to the
request.

Departs from the paper in: one set of weights for all sites; keys from labels, not outputs; no value matrix.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from weft.embed.load import build_same_encoder
from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.files import nearest
from weft.host import Host
from weft.route.router_folder import WeigherOptions, open_router, weigher_options, write_router
from weft.route.weigh import AbstractWeigher, as_cues, check_choice, near_enough, top_weights
from weft.saved import CONFIG, WEIGHTS, Found, Shapes, check_base, read_tensors
from weft.types import AbstractEncoder, Cue

Label = str | Sequence[str]
"""What an adapter does, in one description or in several."""


class Blend(nn.Module, AbstractWeigher):
    """The network, and the labels of the library: descriptions of each adapter by its name.

    Raises ConfigError for an option out of range.

    Args:
        encoder: Turns a request into a vector [D]; frozen.
        labels: Descriptions of each adapter, one or several, by its name.
        hidden: Width of the network.
        temperature: Of the softmax over adapters at the start; it is learned.
        top_k: Keeps the best few, at weights that sum to 1; None keeps all.
        threshold: A request whose vector has no such cosine, -1 to 1, with a label gets no adapter.
        seed: Of the weights at the start.

    Example:
        >>> from weft.embed import OneHot
        >>> from weft.route import Blend
        >>> labels = {"sort": "sort it", "reverse": "turn it round"}
        >>> blend = Blend(OneHot(list(labels.values())), labels)
        >>> blend.weights(["sort it"], ["sort", "reverse"])[0, 0] > 0.9
        tensor(True)
    """

    def __init__(
        self,
        encoder: AbstractEncoder,
        labels: Mapping[str, Label],
        *,
        hidden: int = 256,
        temperature: float = 0.1,
        top_k: int | None = None,
        threshold: float | None = None,
        seed: int = 0,
    ) -> None:
        check_choice(top_k, temperature)
        if hidden < 1:
            raise ConfigError(f"hidden is 1 or more, got {hidden}")
        super().__init__()
        # In a tuple, so that a frozen encoder is no part of the state.
        self._encoder = (encoder,)
        self._labels: dict[str, Label] = {}
        self._vectors: dict[str, Tensor] = {}
        self.top_k = top_k
        self.threshold = threshold
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(encoder.dim, hidden)
        self.last = nn.Linear(hidden, encoder.dim, bias=False)
        self.key = nn.Linear(encoder.dim, encoder.dim, bias=False)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.key.weight)
        self.log_sharpness = nn.Parameter(torch.tensor(-math.log(temperature)))
        for name, label in labels.items():
            self.add(name, label)

    @property
    def encoder(self) -> AbstractEncoder:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What reads requests and labels; frozen."""
        return self._encoder[0]

    @property
    def labels(self) -> Mapping[str, Label]:
        """What every adapter does, by its name, in the order of their coming."""
        return MappingProxyType(self._labels)

    @torch.no_grad()
    def add(self, name: str, label: Label) -> None:
        """Enter an adapter by its description, or several; no other entry is touched, nothing is trained.

        Raises ConfigError for a name that is there or for no description, CueError for an empty one,
        ShapeError for a label whose vector is NaN.
        """
        if name in self._labels:
            raise ConfigError(f"{name} has a label; remove it first, or choose another name")
        texts = [label] if isinstance(label, str) else list(label)
        if not texts:
            raise ConfigError(f"{name} needs at least one description")
        label_D = F.normalize(self.encoder.encode(as_cues(texts)), dim=-1).mean(0)
        if not torch.isfinite(label_D).all():
            raise ShapeError(f"the vector of the label of {name} holds NaN or infinity")
        self._vectors[name] = label_D
        self._labels[name] = label

    def remove(self, name: str) -> None:
        """Take an adapter out. Raises UnknownNameError."""
        if name not in self._labels:
            raise UnknownNameError(f"no adapter {name!r} has a label{nearest(name, self._labels)}")
        del self._labels[name], self._vectors[name]

    def encode(self, cues: Sequence[Cue | str]) -> Float[Tensor, "N D"]:
        """The encoder's unit vectors, on the network's device; text is a description."""
        return F.normalize(self.encoder.encode(as_cues(cues)).to(self.log_sharpness), dim=-1)

    def forward(self, e_BD: Float[Tensor, "B D"], label_KD: Float[Tensor, "K D"]) -> Float[Tensor, "B K"]:
        """Scores from vectors of requests and labels; differentiable."""
        scale = e_BD.shape[-1] ** 0.5
        query_BD = F.normalize(e_BD + self.last(F.silu(self.first(e_BD * scale))) / scale, dim=-1)
        key_KD = F.normalize(label_KD + self.key(label_KD) / scale, dim=-1)
        return query_BD @ key_KD.mT * self.log_sharpness.exp()

    def weights(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Weights that sum to 1 per row, by name; differentiable.

        Raises ShapeError for an empty library, ConfigError for a name without label or a `top_k` above the
        library.
        """
        e_BD, label_KD = self.encode(requests), self._labelled(names)
        weight_BK = top_weights(self(e_BD, label_KD), self.top_k)
        return near_enough(weight_BK, e_BD @ label_KD.mT, self.threshold)

    def cosines(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Of every request's vector with every label's, before the network. Raises what `weights` raises."""
        return self.encode(requests) @ self._labelled(names).mT

    def _labelled(self, names: Sequence[str]) -> Float[Tensor, "K D"]:
        if not names:
            raise ShapeError("there is no adapter to blend, the library is empty")
        missing = [name for name in names if name not in self._labels]
        if missing:
            raise ConfigError(f"adapter {missing[0]} has no label; add it")
        label_KD = torch.stack([self._vectors[name] for name in names]).to(self.log_sharpness)
        return F.normalize(label_KD, dim=-1)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        base: str = "",
        provenance: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write `config.json` and `model.safetensors`; a blend that is there is replaced.

        `base` is the fingerprint of the base that its library is for. Raises ConfigError for an encoder that
        learns, SaveError when the disk refuses or the folder holds other files.
        """
        options = weigher_options(_Options, self, labels=list(self._labels.values()))
        about = {"names": tuple(self._labels), "base": base, "provenance": provenance}
        write_router(folder, "blend", self.state_dict(), options=options, **about)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, host: Host | None = None) -> Blend:
        """Read a folder, in evaluation mode; `host` is the base of the library, checked where given.

        Raises MissingFileError, ConfigError, BaseMismatchError, and WeightsError for damage, NaN, tensors
        that do not fit, or an encoder with other weights.
        """
        saved, options, found = open_router(folder, "blend", _Options)
        check_base(saved, found, host.fingerprint if host else "")
        if len(options.labels) != len(saved.names):
            raise ConfigError(
                f"{found / CONFIG} holds {len(options.labels)} labels for {len(saved.names)} adapters"
            )
        encoder = build_same_encoder(options.encoder, options.encoder_identity, found, host)
        tensors = read_tensors(found / WEIGHTS, lambda shapes: _shapes(encoder.dim, shapes))
        hidden = len(tensors["first.bias"])
        labels = dict(zip(saved.names, options.labels, strict=True))
        blend = cls(encoder, labels, hidden=hidden, top_k=options.top_k, threshold=options.threshold)
        blend.load_state_dict(tensors)
        return blend.eval().requires_grad_(False)


def _shapes(dim: int, found: Found) -> Shapes:
    """The width of the hidden layer is that of its bias."""
    hidden = found["first.bias"][0] if len(found.get("first.bias", ())) == 1 else 1
    return {
        "log_sharpness": (),
        "first.weight": (hidden, dim),
        "first.bias": (hidden,),
        "last.weight": (dim, hidden),
        "key.weight": (dim, dim),
    }


class _Options(WeigherOptions):
    labels: tuple[str | tuple[str, ...], ...]
