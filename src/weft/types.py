"""Every noun and interface of Weft; read this first.

One idea: at every adapted matrix (a site) of a frozen network, for every token,

    y = W x + sum_k  w_k * s_k * B_k A_k x        A_k: [R, I]   B_k: [O, R]   s_k: scaling

Systems differ only in who makes A and B, who makes w, and when. A host accepts one thing, a `Mixture`.

Tensor letters, package-wide: B batch, T tokens, K adapters, R rank, I in, O out, S sites, L layers,
D embedding, V vocabulary, H hidden. `a_KRI` says its shape; a lower-case `k` is the k of top-k.
"""

from __future__ import annotations

import math
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn, promote_types

from weft.errors import BaseMismatchError, ConfigError, ShapeError, WeightsError

IGNORE = -100  # the label of a token that the loss leaves out

# --------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One matrix of the base network that an adapter may change.

    Args:
        path: Dotted module path in the base.
        layer: Index of the layer that holds it; -1 outside the layers.
        module: Last part of the path: the module type.
        in_features: I, how many numbers go in.
        out_features: O, how many come out.

    Example:
        >>> weft.load("weft/letters-adapters/reverse").sites[0].path
        'model.layers.0.mlp.down_proj'
    """

    path: str
    layer: int
    module: str
    in_features: int
    out_features: int


class Factors(NamedTuple):
    """The low-rank change of one site: delta W = scaling * b_OR @ a_RI."""

    a_RI: Tensor
    b_OR: Tensor
    scaling: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """One LoRA adapter (Hu et al. 2021, arXiv 2106.09685): the same thing as one PEFT folder.

    Args:
        factors: A [R, I], B [O, R] and their scaling, of every site that it changes.
        base: Fingerprint of the base it belongs to; empty where a folder does not say.
        name: What it is called.
        peft_config: `adapter_config.json` as it was read; empty for an adapter made here.
        provenance: What the model card tells: recipe, seed, data hash, parents, metrics.

    Example:
        >>> adapter = weft.load("weft/letters-adapters/reverse")
        >>> adapter.name, adapter.rank, adapter.factors[adapter.sites[0]].a_RI.shape
        ('reverse', 4, torch.Size([4, 512]))
    """

    factors: Mapping[Site, Factors]
    base: str = ""
    name: str = "adapter"
    peft_config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        """Name and sizes; its numbers would fill pages of a notebook."""
        return f"Adapter({self.name!r}, rank={self.rank}, sites={len(self.factors)}, base={self.base!r})"

    def __reduce__(self) -> tuple[type[Adapter], tuple[Any, ...]]:
        """Copied and pickled by dicts: a read-only view of one is neither."""
        about = dict(self.peft_config), dict(self.provenance)
        return type(self), (dict(self.factors), self.base, self.name, *about)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites it changes, sorted by path."""
        return tuple(sorted(self.factors))

    @property
    def rank(self) -> int:
        """The largest rank over its sites; 0 when it has none."""
        return max((f.a_RI.shape[0] for f in self.factors.values()), default=0)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a PEFT folder, as `weft.save` does, and raise what it raises."""
        from weft.adapters import save  # above this file: for those who know the name from Hugging Face

        save(self, folder)


@dataclass(frozen=True, eq=False)
class Bank:
    """K adapters on one base, stacked per site; scaling folded into `b`, ranks padded with zeros.

    A missing site holds zeros. Tensors may require grad. Raises ShapeError for tensors that do not fit.

    Args:
        names: Of the K adapters.
        a: A of all adapters, [K, R, I], by site.
        b: B of all adapters, [K, O, R], by site.
        base: Fingerprint of the base that they belong to; empty where nobody said.

    Example:
        >>> adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
        >>> bank = weft.Bank.stack(adapters)
        >>> bank.names, bank.a[bank.sites[0]].shape
        (('reverse', 'sort'), torch.Size([2, 4, 512]))
    """

    names: tuple[str, ...]
    a: Mapping[Site, Float[Tensor, "K R I"]]
    b: Mapping[Site, Float[Tensor, "K O R"]]
    base: str = ""

    def __post_init__(self) -> None:
        """Raise ShapeError where names, a and b do not fit each other."""
        if self.a.keys() != self.b.keys():
            raise ShapeError("a bank needs the same sites in a and b")
        for site, a in self.a.items():
            count, rank = len(self.names), a.shape[1]
            shapes = (tuple(a.shape), tuple(self.b[site].shape))
            wanted = ((count, rank, site.in_features), (count, site.out_features, rank))
            if shapes != wanted:
                raise ShapeError(f"{site.path}: a and b are {shapes}, expected {wanted}")

    def __repr__(self) -> str:
        """Names and sizes, of the first few where there are many."""
        names = ", ".join(map(repr, self.names[:3])) + (", ..." if len(self) > 3 else "")
        return f"Bank([{names}], adapters={len(self)}, sites={len(self.a)}, base={self.base!r})"

    def __len__(self) -> int:
        """K, the number of adapters."""
        return len(self.names)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that at least one adapter changes, sorted by path."""
        return tuple(sorted(self.a))

    @classmethod
    def stack(cls, adapters: Sequence[Adapter], names: Sequence[str] | None = None) -> Bank:
        """Stack adapters of one base; an exact operation, whatever their ranks, scalings and sites.

        Raises BaseMismatchError for adapters of different bases, ShapeError for none, for other names than
        adapters and for a path of two sizes, WeightsError where a factor is not finite after scaling.
        """
        names = tuple([a.name for a in adapters] if names is None else names)
        if not adapters or len(names) != len(adapters):
            raise ShapeError(f"{len(adapters)} adapters and {len(names)} names; need as many, at least one")
        bases = {a.base for a in adapters if a.base}
        if len(bases) > 1:
            raise BaseMismatchError(f"adapters of different bases cannot share a bank: {sorted(bases)}")
        sites = sorted({site for adapter in adapters for site in adapter.factors})
        if len({site.path for site in sites}) < len(sites):
            raise ShapeError("one module path has different sizes in two adapters")
        found = [factors for adapter in adapters for factors in adapter.factors.values()]
        dtypes = [tensor.dtype for one in found for tensor in one[:2]] or [torch.float32]
        if not all(math.frexp(abs(factors.scaling))[0] in (0.0, 0.5) for factors in found):
            dtypes.append(torch.float32)  # a half would round what is no power of two
        like = (found[0].a_RI if found else torch.empty(0)).new_empty(0, dtype=reduce(promote_types, dtypes))
        a, b = {}, {}
        for site in sites:
            here = {k: ad.factors[site] for k, ad in enumerate(adapters) if site in ad.factors}
            rank = max(factors.a_RI.shape[0] for factors in here.values())
            a[site] = like.new_zeros(len(names), rank, site.in_features)
            b[site] = like.new_zeros(len(names), site.out_features, rank)
            for k, (a_RI, b_OR, scaling) in here.items():
                a[site][k, : len(a_RI)] = a_RI
                b[site][k, :, : len(a_RI)] = b_OR.to(like) * scaling
        _check_finite(names, a, b)
        return cls(names=names, a=a, b=b, base=next(iter(bases), ""))

    def __getitem__(self, index: int) -> Adapter:
        """Adapter `index` as a value of its own, scaling 1."""
        index = operator.index(index)  # a slice of every tensor would be no adapter
        factors = {s: Factors(self.a[s][index], self.b[s][index], 1.0) for s in self.sites}
        return Adapter(factors, base=self.base, name=self.names[index])

    def select(self, index_K: Int[Tensor, " K"]) -> Bank:
        """The bank of the adapters at `index_K`, in that order, repeats allowed."""
        names = tuple(self.names[i] for i in index_K.tolist())
        a = {s: a.index_select(0, index_K) for s, a in self.a.items()}
        b = {s: b.index_select(0, index_K) for s, b in self.b.items()}
        return Bank(names=names, a=a, b=b, base=self.base)

    def to(self, *args: Any, **kwargs: Any) -> Bank:
        """Every tensor through `Tensor.to`. Raises WeightsError where a smaller dtype gives infinity."""
        a = {s: a.to(*args, **kwargs) for s, a in self.a.items()}
        b = {s: b.to(*args, **kwargs) for s, b in self.b.items()}
        if any(torch.finfo(b[s].dtype).max < torch.finfo(self.b[s].dtype).max for s in b):
            _check_finite(self.names, a, b)
        return Bank(names=self.names, a=a, b=b, base=self.base)


def _check_finite(names: tuple[str, ...], a: Mapping[Site, Tensor], b: Mapping[Site, Tensor]) -> None:
    """Raise WeightsError for an adapter that would make NaN of rows that do not use it."""
    for site in a:
        finite_K = torch.isfinite(a[site]).flatten(1).all(1) & torch.isfinite(b[site]).flatten(1).all(1)
        if not finite_K.all():
            raise WeightsError(
                f"{site.path} of adapter {names[int(finite_K.int().argmin())]} holds NaN or infinity "
                f"after scaling, in {b[site].dtype}"
            )


# ----------------------------------------------------------------------------------------------- cues


@dataclass(frozen=True, slots=True)
class Description:
    """A task in words.

    Args:
        text: What to do with each input.

    Example:
        >>> weft.HyperNetwork.from_pretrained("weft/letters-t2l").adapt(weft.Description("sort it")).name
        'sort-it'
    """

    text: str


@dataclass(frozen=True, slots=True)
class Examples:
    """A task by (prompt, completion) pairs, with a description where there is one.

    Args:
        pairs: Prompts and what is right to say to each.
        description: The task in words; empty where nobody said.

    Example:
        >>> weft.Examples((("cab >", "bac"), ("dog >", "god"))).pairs[0]
        ('cab >', 'bac')
    """

    pairs: tuple[tuple[str, str], ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A text whose content goes into the adapter."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A picture."""

    pixels_HWC: UInt8[Tensor, "H W 3"]
    """Red, green and blue, 0 to 255."""


Cue = Description | Examples | Document | Image

# ---------------------------------------------------------------------------------------- assignments
# Which adapters act where, in the form that a kernel can exploit. Index -1 is the base alone. Per-token
# forms speak of absolute positions; positions past their end use their last column.


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """One adapter per batch row, weight 1."""

    index_B: Int[Tensor, " B"]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One adapter per token, weight 1."""

    index_BT: Int[Tensor, "B T"]


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """A few weighted adapters per token."""

    index_BTk: Int[Tensor, "B T k"]
    weight_BTk: Float[Tensor, "B T k"]


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A weight for every adapter: per row [B, K], or per token [B, T, K]."""

    weight: Float[Tensor, "B K"] | Float[Tensor, "B T K"]


Assignment = Rows | Tokens | TopK | Dense

# ----------------------------------------------------------------------------------------- interfaces


class Decision(NamedTuple):
    """What a gate decided at one place, for what it was shown there; every tensor begins with B."""

    place: str
    """Module path of the site that decides; empty for a decision on the prompt's embeddings."""
    logits: Tensor
    """What the decision follows from, in float32: [B, T, N]."""
    assignment: Assignment


State = Mapping[int, Decision]
"""What a gate has decided, by number of the deciding layer. A value: gates return new ones."""

UNDECIDED: State = MappingProxyType({})


class AbstractGate(nn.Module, ABC):
    """Looks at hidden states inside the forward and says which adapters act."""

    def prepare(self, embeddings_BTH: Float[Tensor, "B T H"], mask_BT: Bool[Tensor, "B T"]) -> State:
        """Decide once per sequence; called with the prompt, before its forward.

        What it returns is kept per row and comes back as `state` at the first site of every forward.
        Default: nothing decided.
        """
        return UNDECIDED

    @abstractmethod
    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        """Assign the tokens that arrive at one site; the state goes on to the next site of the forward."""


@dataclass(frozen=True, eq=False)
class Term:
    """One bank, who assigns its adapters (an assignment made before, or a gate), and how they join.

    Raises ConfigError for another `combine`.

    Args:
        bank: The K adapters.
        gate: Who acts where: an assignment, or a gate that makes one inside the forward.
        combine: `sum` is sum_k w_k B_k A_k; `average` is (sum_k w_k B_k)(sum_k w_k A_k), as in SMEAR
            (Muqeeth et al. 2023, arXiv 2306.03745). They differ.

    Example:
        >>> bank = weft.Bank.stack([weft.load("weft/letters-adapters/reverse")])
        >>> weft.Term(bank, weft.types.Rows(torch.tensor([0, -1]))).combine  # -1 is the base
        'sum'
    """

    bank: Bank
    gate: Assignment | AbstractGate
    combine: Literal["sum", "average"] = "sum"

    def __post_init__(self) -> None:
        """Raise ConfigError for a way to combine that is none: it would be taken for a sum."""
        if self.combine not in ("sum", "average"):
            raise ConfigError(f"combine is sum or average, got {self.combine!r}")


@dataclass(frozen=True, eq=False)
class Mixture:
    """Terms whose contributions add up: the one thing that a host accepts. No terms is the base.

    Args:
        terms: Banks, and who assigns their adapters; `of`, `rows` and `dense` make the usual ones.

    Example:
        >>> adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
        >>> bank = weft.Bank.stack(adapters)
        >>> one_each = weft.Mixture.rows(bank, [0, 1, None])  # None is the base
        >>> half_of_both = weft.Mixture.dense(bank, torch.tensor([[0.5, 0.5]]))
        >>> len((one_each + half_of_both).terms)
        2
    """

    terms: tuple[Term, ...] = ()

    @classmethod
    def of(cls, adapter: Adapter | Bank) -> Mixture:
        """One adapter (or a bank of one) on every row.

        Raises ShapeError for a bank of several, ConfigError for what is neither.
        """
        bank = Bank.stack([adapter]) if isinstance(adapter, Adapter) else adapter
        if not isinstance(bank, Bank):
            raise ConfigError(
                f"Mixture.of takes an Adapter or a Bank, got a {type(adapter).__name__}; "
                "weft.load reads the folder of an adapter"
            )
        if len(bank) != 1:
            raise ShapeError(f"Mixture.of takes one adapter, this bank holds {len(bank)}; use rows or dense")
        return cls.rows(bank, [0])

    @classmethod
    def rows(cls, bank: Bank, index: Sequence[int | None] | Int[Tensor, " B"]) -> Mixture:
        """Row i of the batch takes adapter index[i], None the base. Raises ShapeError for other indices."""
        if not isinstance(index, Tensor):
            index = torch.tensor([-1 if i is None else operator.index(i) for i in index], dtype=torch.long)
        if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise ShapeError(
                f"rows take one adapter index each, [B], got {index.dtype} of {list(index.shape)}; "
                "weights of all adapters go to Mixture.dense"
            )
        if index.numel() and (int(index.max()) >= len(bank) or int(index.min()) < -1):
            raise ShapeError(f"adapter indices run from 0 to {len(bank) - 1}, got {index.tolist()}")
        device = next(iter(bank.a.values())).device if bank.a else None
        return cls((Term(bank, Rows(index.to(device, torch.long))),))

    @classmethod
    def dense(
        cls, bank: Bank, weight: Float[Tensor, "B K"], combine: Literal["sum", "average"] = "sum"
    ) -> Mixture:
        """Every row blends all adapters by its own weights.

        Raises ShapeError for another number of them, or none per row, ConfigError for another `combine`.
        """
        if weight.dim() not in (2, 3):
            raise ShapeError(
                f"weights are [B, K], a row of them for each of the batch, got {list(weight.shape)}"
            )
        if weight.shape[-1] != len(bank):
            raise ShapeError(f"{weight.shape[-1]} weights for {len(bank)} adapters")
        return cls((Term(bank, Dense(weight), combine),))

    def __add__(self, other: Mixture) -> Mixture:
        """Both at once: contributions add."""
        return Mixture(self.terms + other.terms)


class AbstractEncoder(nn.Module, ABC):
    """Turns cues into vectors."""

    dim: int
    """D, the length of a vector."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What its vectors depend on: kind, options, frozen weights. Equal identities mean equal vectors."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON values that `weft.embed.build_encoder` makes it from again; learned weights apart."""

    @abstractmethod
    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """One vector per cue."""


class AbstractHyperNetwork(nn.Module, ABC):
    """Turns cues into adapters, all sites and all cues in one differentiable forward."""

    @abstractmethod
    def generate(self, cues: Sequence[Cue] | Float[Tensor, "B D"]) -> Bank:
        """One adapter per cue (or per vector, already encoded)."""


class AbstractRouter(ABC):
    """Looks at a request, before the forward."""

    @abstractmethod
    def route(self, request: str, bank: Bank) -> Mixture:
        """Choose or blend the bank's adapters for one request."""
