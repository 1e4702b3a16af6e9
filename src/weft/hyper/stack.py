"""Hypernetworks for hypernetworks: as many levels as a cue needs.

    z_0 = L_0(e)                     L_0 makes the base's adapter
    z_k = L_k([e; mean z_(k-1)])     L_k makes an adapter for the linear layers of L_(k-1)'s trunk
    with k levels above the first: L_(k-1) runs again under what L_k made, L_(k-2) under that, ... L_0

A level that is not called is not run. Who stops is a halting unit, as in adaptive computation time (Graves
2016, arXiv 1603.08983): after depth k it reads the cue and what L_0 has said so far,

    stop_k = sigmoid(h_k [e; mean z_0])      a cue goes up while stop_k <= 1/2

UHN (arXiv 2604.02215) stacks whole networks and runs all of them; here B of every level starts at 0, so a
level that has learned nothing changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from weft.config import Config
from weft.errors import ConfigError
from weft.host import Host, sites_of
from weft.hyper.made import Made, bank_of
from weft.hyper.t2l import T2L, HeadZConfig, T2LConfig, build_t2l
from weft.hyper.trunk import Trunk
from weft.types import Mixture, Site

_TRUNK = r"trunk\..*"


class StackConfig(Config):
    """A first network, and levels above it; their sizes may differ."""

    kind: Literal["stack"]
    first: T2LConfig = T2LConfig()
    higher: tuple[T2LConfig, ...] = Field(
        default=(T2LConfig(head=HeadZConfig(kind="Z", core="full"), dropout=0.0),), min_length=1, max_length=8
    )

    @property
    def scaling(self) -> float:
        """What B A of the base's adapter is multiplied by."""
        return self.first.scaling


class Stack(nn.Module):
    """Levels over each other, and the unit that stops; `build_network` makes one from its config."""

    def __init__(self, config: StackConfig, sites: Iterable[Site], *, dim: int) -> None:
        super().__init__()
        self.config = config
        levels = [build_t2l(config.first, sites, dim=dim)]
        hosts = []
        for level in config.higher:
            below = levels[-1]
            if not below.trunk.mean.is_meta:  # one that is only sized never runs
                hosts.append(Host(below, target_modules=_TRUNK))
                below.requires_grad_(True)  # a host freezes what it hooks; a level is trained
            levels.append(build_t2l(level, sites_of(below, _TRUNK), dim=dim + _width(below)))
        self.levels = nn.ModuleList(levels)
        self._hosts = tuple(hosts)
        self.halts = nn.ModuleList(nn.Linear(dim + _width(levels[0]), 1) for _ in config.higher)
        for halt in self.halts:
            nn.init.zeros_(halt.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(halt.bias)  # pyright: ignore[reportArgumentType]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it makes adapters for."""
        return self._level(0).sites

    @property
    def trunk(self) -> Trunk:
        """Of the first level, which knows how cues are normalised."""
        return self._level(0).trunk

    @property
    def most(self) -> int:
        """How many levels there are above the first."""
        return len(self.config.higher)

    def fit_normaliser(self, e_ND: Float[Tensor, "N D"]) -> None:
        """Z-score cues at every level; what a level below has said is normalised already."""
        self.trunk.fit_normaliser(e_ND)
        self.copy_normaliser()

    def copy_normaliser(self) -> None:
        """Give the first level's to the others."""
        dim = len(self.trunk.mean)
        for level in list(self.levels)[1:]:
            assert isinstance(level, T2L)
            level.trunk.mean[:dim].copy_(self.trunk.mean)
            level.trunk.std[:dim].copy_(self.trunk.std)

    def forward(self, e_BD: Float[Tensor, "B D"], levels: int | Int[Tensor, " B"] | None = None) -> Made:
        """A and B of every site for every cue, with so many levels above the first, for all or for each cue.

        None: each cue decides. Raises ConfigError for a number of levels that there is not.
        """
        return self.emit(self.climb(e_BD, levels)[0])

    def emit(self, z_BSQF: Float[Tensor, "B S Q F"]) -> Made:
        """A and B of every site from what the first level has said."""
        return self._level(0).emit(z_BSQF)

    def climb(
        self, e_BD: Float[Tensor, "B D"], levels: int | Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B S Q F"], Int[Tensor, " B"]]:
        """The first level's latents, and how many levels above it each cue has used. Raises ConfigError."""
        device = e_BD.device
        wanted_B = None if levels is None else torch.as_tensor(levels, device=device).expand(len(e_BD))
        if wanted_B is not None and not bool(((wanted_B >= 0) & (wanted_B <= self.most)).all()):
            raise ConfigError(f"levels is 0 to {self.most} in this stack, got {levels}")
        z_BSQF = self._level(0).latents(e_BD)
        depth_B = torch.zeros(len(e_BD), dtype=torch.long, device=device)
        going = torch.arange(len(e_BD), device=device)
        inputs, said = [e_BD], z_BSQF
        for k in range(1, self.most + 1):
            if wanted_B is None:
                goes = self.stops(k - 1, e_BD[going], z_BSQF[going]) <= 0.5
            else:
                goes = wanted_B[going] >= k
            going, said = going[goes], said[goes]
            inputs = [x[goes] for x in inputs]
            if not len(going):
                break
            inputs.append(torch.cat([e_BD[going], said.mean((1, 2))], 1))
            said = self._level(k).latents(inputs[k])
            z_BSQF = z_BSQF.index_put((going,), self._down(k, said, inputs))
            depth_B[going] = k
        return z_BSQF, depth_B

    def stops(
        self, depth: int, e_BD: Float[Tensor, "B D"], z_BSQF: Float[Tensor, "B S Q F"]
    ) -> Float[Tensor, " B"]:
        """Probability to go no further than this depth, told what the first level has said there."""
        told_BN = torch.cat([(e_BD - self.trunk.mean) / self.trunk.std, z_BSQF.mean((1, 2))], 1)
        return torch.sigmoid(self.halts[depth](told_BN)[:, 0])

    def _down(
        self, top: int, z_BSQF: Float[Tensor, "B S Q F"], inputs: Sequence[Tensor]
    ) -> Float[Tensor, "B Z P G"]:
        """What the first level says when each level runs under what the one above it has made."""
        for k in range(top - 1, -1, -1):
            made = self._level(k + 1).emit(z_BSQF)
            bank = bank_of(made, [str(row) for row in range(len(z_BSQF))], self.config.higher[k].scaling)
            with self._hosts[k].running(Mixture.rows(bank, range(len(bank)))):
                z_BSQF = self._level(k).latents(inputs[k])
        return z_BSQF

    def _level(self, k: int) -> T2L:
        level = self.levels[k]
        assert isinstance(level, T2L)
        return level


def build_network(config: T2LConfig | StackConfig, sites: Iterable[Site], *, dim: int) -> T2L | Stack:
    """A fresh network of either kind, from the global random state. Raises what `build_t2l` raises."""
    if isinstance(config, StackConfig):
        return Stack(config, sites, dim=dim)
    return build_t2l(config, sites, dim=dim)


def _width(level: T2L) -> int:
    return level.config.head_in
