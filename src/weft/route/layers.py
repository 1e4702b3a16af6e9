"""Learned weights per layer: every adapter of a library counts in each layer by a number of its own.

LoRA Soups (Prabhakar et al. 2024, arXiv 2410.13025), section 3, CAT: the adapters stay frozen, and with a few
rows only the weights are learned. In layer l

    y = W x + sum_k w_lk B_k A_k x        free: w_lk any number      softmax: w_l = softmax(z_l)

The weights look at no token, so what was learned can be merged into one adapter per library afterwards. Rows
may have weights of their own: `by_layer`.

Departs from the paper in: sites outside the layers (an output head) have weights of their own; softmax is
offered beside free weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.config import Config
from weft.errors import ConfigError, ShapeError
from weft.route.router_folder import AbstractSavedGate, GateParts, filled, read_gate
from weft.saved import Shapes
from weft.types import Assignment, Bank, Dense, Mixture, Site, State, Term

Kind = Literal["free", "softmax"]


class LayerWeights(AbstractSavedGate):
    """A weight for each of K = `count` adapters in each of `layers`; learned, all equal to 1/K at first.

    `layers` are the numbers of the bank's layers in rising order, -1 standing for sites outside them;
    `layers_of(bank)` tells them. Raises ConfigError for no adapter, layers out of order, or an unknown kind.
    """

    def __init__(self, count: int, layers: Sequence[int], *, kind: Kind = "free") -> None:
        if count < 1:
            raise ConfigError(f"there is no adapter to weigh, got {count}")
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < -1:
            raise ConfigError(f"layers are numbers from -1 in rising order, got {list(layers)}")
        if kind not in ("free", "softmax"):
            raise ConfigError(f"the kind of weights is free or softmax, got {kind!r}")
        super().__init__()
        self.layers = tuple(layers)
        self.kind: Kind = kind
        start = torch.full((len(layers), count), 1 / count if kind == "free" else 0.0)
        self.value_LK = nn.Parameter(start)

    @property
    def weight_LK(self) -> Float[Tensor, "L K"]:
        """The weights, with gradient."""
        return self.value_LK if self.kind == "free" else self.value_LK.softmax(-1)

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """The weights of the site's layer, for every row. Raises ShapeError for a layer without weights."""
        if site.layer not in self.layers:
            raise ShapeError(
                f"{site.path} lies in layer {site.layer}, these weights are for {list(self.layers)}"
            )
        return Dense(self.weight_LK[self.layers.index(site.layer)][None]), state

    def parts(self) -> GateParts:
        """What its folder holds."""
        options = _Options(layers=self.layers, kind=self.kind)
        return GateParts("layers", self.value_LK.shape[1], self.state_dict(), options)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], bank: Bank) -> LayerWeights:
        """Read a folder for its own library, frozen, on its device. Raises what `read_gate` raises."""
        options, tensors = read_gate(folder, "layers", bank, _Options, _shapes)
        return filled(cls(len(bank), options.layers, kind=options.kind), tensors, bank)


def layers_of(bank: Bank) -> tuple[int, ...]:
    """The layers that a bank changes, in rising order; -1 for sites outside the layers."""
    return tuple(sorted({site.layer for site in bank.sites}))


def by_layer(bank: Bank, weight_BLK: Float[Tensor, "B L K"]) -> Mixture:
    """Every row blends all adapters by weights of its own in each of `layers_of(bank)`; differentiable.

    Raises ShapeError for weights of another number of layers or adapters.
    """
    layers = layers_of(bank)
    if weight_BLK.shape[1:] != (len(layers), len(bank)):
        raise ShapeError(
            f"weights of {len(layers)} layers and {len(bank)} adapters are [B, L, K], "
            f"got {tuple(weight_BLK.shape)}"
        )
    terms = []
    for place, layer in enumerate(layers):
        sites = [site for site in bank.sites if site.layer == layer]
        part = Bank(bank.names, {s: bank.a[s] for s in sites}, {s: bank.b[s] for s in sites}, bank.base)
        terms.append(Term(part, Dense(weight_BLK[:, place])))
    return Mixture(tuple(terms))


class _Options(Config):
    layers: tuple[int, ...]
    kind: Kind


def _shapes(bank: Bank, options: _Options) -> Shapes:
    return {"value_LK": (len(options.layers), len(bank))}
