"""A picture as histograms, by fixed rules, without learned weights: where which edges run, and its colours.

Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection", and the pyramid of Bosch et al.
2007, "Representing shape with a spatial pyramid kernel":

    h = sqrt(edges / sum)      edges: gradient lengths by direction, over the whole, quarters, sixteenths
    c = sqrt(colours)          colours: shares of the 27 mixtures of none, half and full red, green and blue

A picture is brought to 32 x 32 pixels first. At a pixel the channel with the steepest gradient counts, less
what noise may be. A gradient is shared between the two directions next to its own, a colour between the
mixtures around it.
Departs from the papers in: directions of the whole circle; one scale for the picture in place of one for each
block. It tells drawn shapes, signs and colours apart, not what is on a photograph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad

from weft.errors import CueError
from weft.types import AbstractEncoder, Cue, Image

_SIDE, _DIRECTIONS, _GRIDS, _LEVELS = 32, 12, (1, 2, 4), 3
_BATCH = 256
_LEAST = 1e-6
_NOISE = 0.08  # of the range of a channel, over two pixels


class Histograms(AbstractEncoder):
    """Vectors of `Image` cues of any size; frozen, float32, on the CPU, without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = _DIRECTIONS * sum(grid * grid for grid in _GRIDS) + _LEVELS**3

    @property
    def identity(self) -> str:
        """Kind and sizes; it has no weights."""
        grids = "-".join(map(str, _GRIDS))
        return f"histograms:{_SIDE}:{_DIRECTIONS}:{grids}:{_NOISE}:{_LEVELS}"

    def config(self) -> dict[str, Any]:
        """The kind."""
        return {"kind": "histograms"}

    @torch.no_grad()
    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """One vector per picture. Raises CueError for another cue, and for a picture without pixels."""
        vectors = [torch.zeros(0, self.dim)]
        for start in range(0, len(cues), _BATCH):
            pictures_BCHW = torch.stack([_scaled(cue) for cue in cues[start : start + _BATCH]])
            vectors.append(torch.cat([_edges(pictures_BCHW), _colours(pictures_BCHW)], 1))
        return torch.cat(vectors)


def _scaled(cue: Cue) -> Float[Tensor, "3 H W"]:
    if not isinstance(cue, Image):
        raise CueError(f"this encoder reads pictures, got {type(cue).__name__}")
    if not cue.pixels_HWC.numel():
        raise CueError("the picture has no pixels")
    pixels_CHW = cue.pixels_HWC.cpu().permute(2, 0, 1).float() / 255
    size = (_SIDE, _SIDE)
    return interpolate(pixels_CHW[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _edges(pictures_BCHW: Tensor) -> Float[Tensor, "B E"]:
    """Roots of the shares of all gradient length, by cell and direction; 0 for a picture without edges."""
    wide = pad(pictures_BCHW, (1, 1, 1, 1), mode="replicate")
    dx_BCHW = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
    dy_BCHW = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
    length_BHW, steepest_BHW = torch.hypot(dx_BCHW, dy_BCHW).max(1)
    length_BHW = (length_BHW - _NOISE).clamp(min=0)
    dx_BHW, dy_BHW = (d.gather(1, steepest_BHW[:, None])[:, 0] for d in (dx_BCHW, dy_BCHW))
    place_BHW = torch.atan2(dy_BHW, dx_BHW) / (2 * math.pi) * _DIRECTIONS
    directions_A = torch.arange(_DIRECTIONS)[:, None, None]
    apart_BAHW = (place_BHW[:, None] - directions_A) % _DIRECTIONS
    near_BAHW = torch.minimum(apart_BAHW, _DIRECTIONS - apart_BAHW)
    share_BAHW = (1 - near_BAHW).clamp(min=0) * length_BHW[:, None]
    cells = [adaptive_avg_pool2d(share_BAHW, grid).flatten(1) for grid in _GRIDS]
    total_B1 = cells[0].sum(1, keepdim=True).clamp(min=_LEAST)
    return (torch.cat(cells, 1) / total_B1).sqrt()


def _colours(pictures_BCHW: Tensor) -> Float[Tensor, "B 27"]:
    levels_L = torch.linspace(0, 1, _LEVELS)
    near_BCLHW = pictures_BCHW[:, :, None] - levels_L[:, None, None]
    share_BCLHW = (1 - near_BCLHW.abs() * (_LEVELS - 1)).clamp(min=0)
    red, green, blue = share_BCLHW.unbind(1)
    return torch.einsum("brhw,bghw,bchw->brgc", red, green, blue).flatten(1).div(_SIDE**2).sqrt()
