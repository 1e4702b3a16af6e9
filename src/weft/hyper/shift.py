"""Shift: a vector that came with a control token, and what acts on the row, in; what acts from then on, out.

With v = norm(W h), h the state that the control token was chosen from, and the row's own (w, m):

    z       = mlp([v; m; sum_k w_k key_k])
    p       = softmax(sharpness * cos(query(z), key_1..K), (z . g))    K library adapters, the generated one
    d       = sigmoid(z . u)                                           decay of what was there
    w'      = d w + p_1..K        m' = d m + v
    delta'  = d delta + p_K+1 * generate(z)

`generate` is a Text-to-LoRA network over z. In training the deltas of a row are put side by side, which is
exact; while decoding they are cut back to a rank budget (`hyper/shift_controller.py`).
No peer does this with a vector: Granite Switch (2026) names one of its baked-in adapters by a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import Config, Size
from weft.errors import ConfigError, ShapeError
from weft.hyper.made import bank_of
from weft.hyper.t2l import HeadZConfig, T2LConfig, build_t2l
from weft.types import Bank, Site


class ShiftConfig(Config):
    """A shift network."""

    mode: Literal["blend", "generate", "both"] = "both"
    """Whether it weighs a library, writes factors, or may do both at once."""
    vector: Size = 64
    """Length of the signal vector."""
    hidden: Size = 128
    """Width of its hidden layer."""
    network: T2LConfig = T2LConfig(
        head=HeadZConfig(kind="Z"), rank=4, latent=64, head_in=64, dropout=0.0, trunk_norm=2.0
    )
    """What writes the factors; its cue is z."""
    sharpness: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Of the softmax at the start; it is learned."""
    floor: float = Field(default=0.01, ge=0, lt=1)
    """A weight below it is 0, so that what hardly acts costs nothing."""
    remembers: bool = True
    """Whether m and what acts are read: without, only the vector says what comes next, so that the network
    cannot learn from its training which task never follows which."""
    decay: float = Field(default=0.02, gt=0, lt=1)
    """How much of what was there stays, at the start; it is learned."""


class Acting(NamedTuple):
    """What a row knows of its own adapters: the state that goes into the next shift."""

    weight_BK: Float[Tensor, "B K"]
    """Of the library's adapters."""
    memory_BD: Float[Tensor, "B D"]
    """Earlier vectors, decayed as their adapters are."""


class Shifted(NamedTuple):
    """What a shift does."""

    acting: Acting
    decay_B: Float[Tensor, " B"]
    """What remains of every generated delta that was there."""
    amount_B: Float[Tensor, " B"]
    """Weight of the new delta."""
    delta: Bank | None
    """The new delta of every row, before its weight; None for a network that only blends."""
    logits_BN: Float[Tensor, "B N"]
    """Before the softmax: one per library adapter, and the generated one where there is one."""


class Shift(nn.Module):
    """The network, for a library of `count` adapters and a host whose state has `width` numbers.

    Raises ConfigError for a mode that needs a library and has none.
    """

    def __init__(self, config: ShiftConfig, sites: Sequence[Site], *, width: int, count: int) -> None:
        super().__init__()
        if config.mode != "generate" and count < 1:
            raise ConfigError(f"mode {config.mode} blends a library; give one, or use mode generate")
        self.config = config
        self.width = width
        self.count = count if config.mode != "generate" else 0
        dim = config.vector
        self.signal = nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim))
        self.mlp = nn.Sequential(
            nn.Linear(3 * dim, config.hidden), nn.SiLU(), nn.Linear(config.hidden, dim), nn.LayerNorm(dim)
        )
        self.query = nn.Linear(dim, dim)
        self.key_KD = nn.Parameter(torch.randn(self.count, dim) / math.sqrt(dim))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(config.sharpness)))
        self.decay = nn.Linear(dim, 1)
        nn.init.zeros_(self.decay.weight)
        nn.init.constant_(self.decay.bias, math.log(config.decay / (1 - config.decay)))
        self.generator = None
        if config.mode != "blend":
            self.own = nn.Linear(dim, 1)
            self.generator = build_t2l(config.network, sites, dim=dim)

    def nothing(self, rows: int) -> Acting:
        """The state of rows that have not shifted."""
        like = self.key_KD
        return Acting(like.new_zeros(rows, self.count), like.new_zeros(rows, self.config.vector))

    def vector(self, hidden_BH: Float[Tensor, "B H"]) -> Float[Tensor, "B D"]:
        """The signal vectors of states. Raises ShapeError for states of another width."""
        if hidden_BH.shape[-1] != self.width:
            raise ShapeError(
                f"the shift network reads states of width {self.width}, got {hidden_BH.shape[-1]}; "
                "use the base that it was trained on"
            )
        return self.signal(hidden_BH.float())

    def forward(self, vector_BD: Float[Tensor, "B D"], acting: Acting) -> Shifted:
        """One shift of every row; differentiable. Raises ShapeError for vectors of another length."""
        if vector_BD.shape[-1] != self.config.vector:
            raise ShapeError(
                f"a signal vector has {self.config.vector} numbers here, got {vector_BD.shape[-1]}"
            )
        there_BD = acting.weight_BK @ self.key_KD
        before_BD = torch.cat([acting.memory_BD, there_BD], -1)
        if not self.config.remembers:
            before_BD = torch.zeros_like(before_BD)
        z_BD = self.mlp(torch.cat([vector_BD, before_BD], -1))
        query_BD = F.normalize(self.query(z_BD), dim=-1)
        logits_BN = query_BD @ F.normalize(self.key_KD, dim=-1).mT * self.log_sharpness.exp()
        if self.generator is not None:
            logits_BN = torch.cat([logits_BN, self.own(z_BD)], -1)
        share_BN = logits_BN.softmax(-1)
        share_BN = torch.where(share_BN < self.config.floor, 0.0, share_BN)
        decay_B = torch.sigmoid(self.decay(z_BD))[:, 0]
        after = Acting(
            decay_B[:, None] * acting.weight_BK + share_BN[:, : self.count],
            decay_B[:, None] * acting.memory_BD + vector_BD,
        )
        if self.generator is None:
            return Shifted(after, decay_B, torch.zeros_like(decay_B), None, logits_BN)
        factors, scaling = self.generator(z_BD), self.generator.config.scaling
        delta = bank_of(factors, ("shift",) * len(z_BD), scaling)
        return Shifted(after, decay_B, share_BN[:, -1], delta, logits_BN)
