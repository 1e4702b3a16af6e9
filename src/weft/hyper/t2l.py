"""Text-to-LoRA: a cue's vector in, every site's A and B out, in one forward.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3; heads L, M and S are its sizes,
Z is Zhyper's, P is Program-as-Weights'.

    delta W_site = scaling * B A        (A, B) = head_m(trunk(cue, layer, role))

The trunk's defaults are the paper's. What departs from it stands in `trunk.py` and in each head's file.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from weft.config import Config, Rank
from weft.hyper.groups import Group, group_sites
from weft.hyper.head import AbstractHead
from weft.hyper.head_l import HeadL
from weft.hyper.head_m import HeadM
from weft.hyper.head_p import HeadP
from weft.hyper.head_published import HeadPublished, Size
from weft.hyper.head_s import HeadS
from weft.hyper.head_z import HeadZ
from weft.hyper.made import Made
from weft.hyper.trunk import Trunk
from weft.types import Site


class HeadLConfig(Config):
    """Options of head L."""

    kind: Literal["L"]
    tie_a: bool = False
    """All cues share one learned A per site; the network emits B only."""


class HeadMConfig(Config):
    """Options of head M: none."""

    kind: Literal["M"]


class HeadSConfig(Config):
    """Options of head S."""

    kind: Literal["S"]
    position: Literal["rotary", "learned"] = "rotary"
    """How a latent is told which rank it is for."""


class HeadZConfig(Config):
    """Options of head Z."""

    kind: Literal["Z"]
    core: Literal["diagonal", "full"] = "diagonal"
    """What it makes between the shared A and B: one number for each rank, or a whole matrix."""


class HeadPConfig(Config):
    """Options of head P."""

    kind: Literal["P"]
    bases: int = Field(default=16, gt=0, le=4096)
    """How many bases each module type has, shared by its layers."""


class HeadPublishedConfig(Config):
    """Options of the head of a released network, which `weft import-t2l` writes."""

    kind: Literal["published"]
    size: Size
    """Which of Text-to-LoRA's sizes."""
    bias: bool = True
    """Whether the linear maps have one."""
    z_scored: bool = False
    """Whether they give z-scores, which a spread per number is multiplied to."""


class T2LConfig(Config):
    """A Text-to-LoRA network; the defaults are the paper's sizes."""

    kind: Literal["t2l"] = "t2l"
    head: HeadLConfig | HeadMConfig | HeadSConfig | HeadZConfig | HeadPConfig | HeadPublishedConfig = Field(
        default=HeadLConfig(kind="L"), discriminator="kind"
    )
    rank: Rank = 8
    """Rank of the adapters that it makes."""
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """LoRA alpha; 2 * rank unless given."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023)."""
    latent: int = Field(default=128, ge=16, le=1 << 14, multiple_of=4)
    """Width of the trunk: half of it for the cue, a quarter each for layer and role."""
    head_in: int = Field(default=512, ge=1, le=1 << 16)
    """Width of the latents that the heads read."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of the trunk's numbers that a training step drops."""
    trunk_norm: float | None = Field(default=2.0, gt=0, allow_inf_nan=False)
    """L2 norm of the latents that the heads read; None leaves them as they are, as in the paper."""

    @property
    def scaling(self) -> float:
        """What B A is multiplied by."""
        alpha = 2 * self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class T2L(nn.Module):
    """A trunk and a head over the same groups of sites; `build_t2l` makes one from its config."""

    def __init__(self, config: T2LConfig, groups: Sequence[Group], trunk: Trunk, head: AbstractHead) -> None:
        super().__init__()
        self.config = config
        self.groups = tuple(groups)
        self.trunk = trunk
        self.head = head

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it makes adapters for, in the order of its groups."""
        return tuple(site for group in self.groups for site in group.sites)

    def forward(self, e_BD: Float[Tensor, "B D"]) -> Made:
        """A and B of every site for every cue, before scaling; views of one tensor per group."""
        return self.emit(self.latents(e_BD))

    def latents(self, e_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B S Q F"]:
        """What the head reads: Q latents per cue and site."""
        queries_BSQW = self.head.queries(self.trunk.body(e_BD))
        return self.trunk.tail(queries_BSQW.flatten(1, 2)).unflatten(1, queries_BSQW.shape[1:3])

    def emit(self, z_BSQF: Float[Tensor, "B S Q F"]) -> Made:
        """A and B of every site from its latents."""
        factors = {}
        sizes = [len(group.sites) for group in self.groups]
        for group, z_BLQF in zip(self.groups, z_BSQF.split(sizes, 1), strict=True):
            a_BLRI, b_BLRO = self.head.emit(group, z_BLQF)
            for site, a_BRI, b_BRO in zip(group.sites, a_BLRI.unbind(1), b_BLRO.unbind(1), strict=True):
                factors[site] = (a_BRI, b_BRO.mT)
        return factors


def build_t2l(config: T2LConfig, sites: Iterable[Site], *, dim: int) -> T2L:
    """A fresh network from the global random state; `dim` is the length of the cue vectors.

    Raises ShapeError when there is no site or one path twice.
    """
    groups = group_sites(sites)
    latent, head_in, rank = config.latent, config.head_in, config.rank
    trunk = Trunk(dim, groups, latent=latent, head_in=head_in, dropout=config.dropout, norm=config.trunk_norm)
    match config.head:
        case HeadLConfig(tie_a=tie_a):
            head = HeadL(groups, head_in=head_in, rank=rank, tie_a=tie_a)
        case HeadMConfig():
            head = HeadM(groups, latent=latent, head_in=head_in, rank=rank)
        case HeadSConfig(position=position):
            head = HeadS(groups, latent=latent, head_in=head_in, rank=rank, position=position)
        case HeadZConfig(core=core):
            head = HeadZ(groups, head_in=head_in, rank=rank, core=core)
        case HeadPConfig(bases=bases):
            head = HeadP(groups, head_in=head_in, rank=rank, bases=bases)
        case HeadPublishedConfig(size=size, bias=bias, z_scored=z_scored):
            options = {"dropout": config.dropout, "bias": bias, "z_scored": z_scored}
            head = HeadPublished(groups, size=size, latent=latent, head_in=head_in, rank=rank, **options)
    return T2L(config, groups, trunk, head)
