"""A classifier from a request's vector to one adapter: multinomial logistic regression, trained on examples.

    p = softmax(V e + c)        min over V, c of  mean_n -log p_n[y_n] + l2 / 2 * |V|^2

e is the unit vector of a request and y the adapter that it belongs to, as a data-driven selector over a LoRA
library (the classifiers that Ostapenko et al. 2024, arXiv 2405.11157, and Zhao et al. 2024, arXiv
2402.09997, compare retrieval with). The loss is convex and the search starts at 0, so that equal examples
give equal weights in every process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from weft.embed.load import build_same_encoder
from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.files import nearest
from weft.host import Host
from weft.route.router_folder import WeigherOptions, open_router, read_router, weigher_options, write_router
from weft.route.weigh import AbstractWeigher, check_choice, near_enough, top_weights, unit_vectors
from weft.saved import check_base
from weft.types import AbstractEncoder, Cue


class Classifier(AbstractWeigher):
    """One row of `weight_KD` and one number of `bias_K` for each adapter of `names`; made by `fit`.

    Raises ShapeError for tensors that do not fit or hold NaN, ConfigError for an option out of range.

    Args:
        encoder: Turns a request into a vector [D].
        names: Of the K adapters.
        weight_KD: What a vector is multiplied with.
        bias_K: What is added.
        centre_KD: Unit means of the examples of each adapter, for the threshold.
        top_k: 1 takes the likeliest adapter as it is, more share by their chances; None is all.
        temperature: Of the softmax over adapters.
        threshold: A request with no such cosine, -1 to 1, to a centre gets no adapter.

    Example:
        >>> from weft.embed import OneHot
        >>> from weft.route import Classifier
        >>> examples = [("sort it", "sort"), ("turn it round", "reverse")]
        >>> router = Classifier.fit(OneHot([text for text, _ in examples]), examples)
        >>> router.weights(["sort it"], ["reverse", "sort"]).tolist()
        [[0.0, 1.0]]
    """

    def __init__(
        self,
        encoder: AbstractEncoder,
        names: Sequence[str],
        weight_KD: Float[Tensor, "K D"],
        bias_K: Float[Tensor, " K"],
        *,
        centre_KD: Float[Tensor, "K D"] | None = None,
        top_k: int | None = 1,
        temperature: float = 1.0,
        threshold: float | None = None,
    ) -> None:
        check_choice(top_k, temperature)
        want = (len(names), encoder.dim)
        if tuple(weight_KD.shape) != want or tuple(bias_K.shape) != want[:1]:
            raise ShapeError(
                f"the classifier's weights are {tuple(weight_KD.shape)} and {tuple(bias_K.shape)}; "
                f"{len(names)} adapters and {encoder.dim} features need {want} and {want[:1]}"
            )
        if centre_KD is not None and tuple(centre_KD.shape) != want:
            raise ShapeError(f"the classifier's centres are {tuple(centre_KD.shape)}, they should be {want}")
        if threshold is not None and centre_KD is None:
            raise ConfigError("a classifier without centres knows no distance; leave the threshold out")
        held = [weight_KD, bias_K] if centre_KD is None else [weight_KD, bias_K, centre_KD]
        if not all(torch.isfinite(tensor).all() for tensor in held):
            raise ShapeError("the classifier's weights hold NaN or infinity")
        self.encoder = encoder
        self.names = tuple(names)
        self.weight_KD, self.bias_K, self.centre_KD = weight_KD, bias_K, centre_KD
        self.top_k = top_k
        self.temperature = temperature
        self.threshold = threshold

    @classmethod
    def fit(
        cls,
        encoder: AbstractEncoder,
        examples: Sequence[tuple[Cue | str, str]],
        *,
        l2: float = 1e-4,
        max_iter: int = 200,
        top_k: int | None = 1,
        temperature: float = 1.0,
    ) -> Classifier:
        """Train on (request, adapter name) pairs, text being a description; the names come sorted.

        Raises ConfigError for no examples or an option out of range, ShapeError for a vector that is NaN.
        """
        if not examples:
            raise ConfigError("a classifier needs examples: pairs of a request and an adapter's name")
        if not 0 < l2 < float("inf") or max_iter < 1:
            raise ConfigError(f"l2 is above 0 and max_iter 1 or more, got {l2} and {max_iter}")
        check_choice(top_k, temperature)
        names = sorted({name for _, name in examples})
        e_ND = unit_vectors(encoder, [cue for cue, _ in examples]).double()
        if not torch.isfinite(e_ND).all():
            raise ShapeError("the vector of an example holds NaN or infinity")
        target_N = torch.tensor([names.index(name) for _, name in examples])
        weight_KD, bias_K = _fit(e_ND, target_N, len(names), l2, max_iter)
        sum_KD = torch.zeros_like(weight_KD).index_add_(0, target_N, e_ND)
        return cls(
            encoder,
            names,
            weight_KD.float(),
            bias_K.float(),
            centre_KD=F.normalize(sum_KD, dim=-1).float(),
            top_k=top_k,
            temperature=temperature,
        )

    @torch.no_grad()
    def logits(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Scores of the adapters of these names. Raises UnknownNameError for one that was not trained on."""
        index_K = self._places(names)
        e_BD = unit_vectors(self.encoder, requests)
        return F.linear(e_BD, self.weight_KD[index_K], self.bias_K[index_K])

    @torch.no_grad()
    def cosines(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Of every request with the centre of every adapter of these names.

        Raises what `logits` raises, ConfigError for a classifier without centres, ShapeError for no names.
        """
        if self.centre_KD is None:
            raise ConfigError("a classifier without centres knows no distance; leave the threshold out")
        if not names:
            raise ShapeError("there is no adapter to choose from, the library is empty")
        return unit_vectors(self.encoder, requests) @ self.centre_KD[self._places(names)].mT

    def _places(self, names: Sequence[str]) -> Int[Tensor, " K"]:
        place = {name: k for k, name in enumerate(self.names)}
        for name in names:
            if name not in place:
                raise UnknownNameError(
                    f"the classifier does not know adapter {name!r}{nearest(name, place)}; train it again"
                )
        return torch.tensor([place[name] for name in names], dtype=torch.long)

    def weights(self, requests: Sequence[Cue | str], names: Sequence[str]) -> Float[Tensor, "B K"]:
        """Chances among the adapters of these names; `top_k` 1 gives the likeliest one weight 1.

        Raises what `logits` raises, ShapeError for no names, ConfigError for a `top_k` above their number.
        """
        weight_BK = top_weights(self.logits(requests, names), self.top_k, self.temperature)
        if self.threshold is None:
            return weight_BK
        return near_enough(weight_BK, self.cosines(requests, names), self.threshold)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        base: str = "",
        provenance: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write `config.json` and `model.safetensors`; a classifier that is there is replaced.

        `base` is the fingerprint of the base that its library is for. Raises ConfigError for an encoder that
        learns, SaveError when the disk refuses or the folder holds other files.
        """
        options = weigher_options(
            _Options, self, temperature=self.temperature, centred=self.centre_KD is not None
        )
        tensors = {"weight_KD": self.weight_KD, "bias_K": self.bias_K}
        if self.centre_KD is not None:
            tensors["centre_KD"] = self.centre_KD
        about = {"names": self.names, "base": base, "provenance": provenance}
        write_router(folder, "classifier", tensors, options=options, **about)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, host: Host | None = None) -> Classifier:
        """Read a folder; `host` is the base of the library, checked where given.

        Raises MissingFileError, ConfigError, BaseMismatchError, and WeightsError for damage, NaN, tensors
        that do not fit, or an encoder with other weights.
        """
        saved, options, found = open_router(folder, "classifier", _Options)
        check_base(saved, found, host.fingerprint if host else "")
        encoder = build_same_encoder(options.encoder, options.encoder_identity, found, host)
        count = len(saved.names)
        shapes = {"weight_KD": (count, encoder.dim), "bias_K": (count,)}
        if options.centred:
            shapes["centre_KD"] = (count, encoder.dim)
        tensors = read_router(found, shapes)
        choice = {"top_k": options.top_k, "temperature": options.temperature, "threshold": options.threshold}
        return cls(encoder, saved.names, **tensors, **choice)


class _Options(WeigherOptions):
    temperature: float
    centred: bool = False
    """Whether the centres of the examples lie beside the weights; they did not always."""


def _fit(
    e_ND: Tensor, target_N: Tensor, count: int, l2: float, max_iter: int
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """The minimum, in float64, by L-BFGS."""
    weight_KD = e_ND.new_zeros(count, e_ND.shape[1], requires_grad=True)
    bias_K = e_ND.new_zeros(count, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_KD, bias_K],
        max_iter=max_iter,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        logits_NK = F.linear(e_ND, weight_KD, bias_K)
        loss = F.cross_entropy(logits_NK, target_N) + l2 / 2 * weight_KD.square().sum()
        loss.backward()
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)
    return weight_KD.detach(), bias_K.detach()
