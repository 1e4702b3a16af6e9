"""Dropout of what reaches A, in training alone: PEFT's `lora_dropout`.

    y = W x + s B A (x * m / (1 - p))        m ~ Bernoulli(1 - p), number by number

Srivastava et al. 2014 (JMLR 15), as LoRA uses it (Hu et al. 2021, arXiv 2106.09685, section 4).

Departs from PEFT in: the mask is drawn from a key and the site, not from torch's global state, so a layer
that is computed again in the backward, and a run that is resumed, drop the same numbers again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.types import Site


@dataclass(frozen=True, slots=True)
class Dropout:
    """What one forward drops."""

    p: float
    """The share of numbers that become 0, from 0 (none) to below 1."""
    key: str
    """Equal keys drop the same numbers, on one kind of device."""

    def part(self, number: int) -> Dropout:
        """That of one of several forwards."""
        return replace(self, key=f"{self.key}/{number}")

    def drop(self, x: Tensor, site: Site) -> Tensor:
        """The input of a site with numbers dropped, and the others made larger by 1 / (1 - p)."""
        digest = hashlib.sha256(f"{self.key}/{site.path}".encode()).digest()
        chance = torch.Generator(x.device).manual_seed(int.from_bytes(digest[:7], "big"))
        kept = torch.empty_like(x, requires_grad=False).bernoulli_(1 - self.p, generator=chance)
        return x * kept.div_(1 - self.p)
