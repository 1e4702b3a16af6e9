"""States between stages in fewer bytes: off unless asked for, since what is rounded is no longer equal.

    fp16   x as float16
    int8   round(x / s), s = max |x| / 127 per token, as LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339)

Departs from the paper in: no outlier features are kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from weft.errors import MessageError

Codec = Literal["none", "fp16", "int8"]
CODECS: tuple[str, ...] = get_args(Codec)
_FP16_MOST = torch.finfo(torch.float16).max


def pack(x_BTH: Tensor, codec: str) -> dict[str, Tensor]:
    """States as they travel. Raises MessageError for a codec that is not known."""
    match codec:
        case "none":
            return {"x": x_BTH}
        case "fp16":
            return {"x": x_BTH.clamp(-_FP16_MOST, _FP16_MOST).to(torch.float16)}
        case "int8":
            scale_BT1 = x_BTH.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 127
            return {"x": (x_BTH / scale_BT1).round().to(torch.int8), "scale": scale_BT1}
    raise MessageError(f"no codec {codec!r:.40}; there are {', '.join(CODECS)}")


def unpack(tensors: Mapping[str, Tensor], codec: str, dtype: torch.dtype) -> Tensor:
    """States as a stage reads them. Raises MessageError for tensors of another codec."""
    x = tensors.get("x")
    want = {"none": dtype, "fp16": torch.float16, "int8": torch.int8}.get(codec)
    if x is None or x.dim() != 3 or x.dtype != want:
        raise MessageError(f"states that came are no {want} of three dimensions")
    if codec != "int8":
        return x.to(dtype)
    scale = tensors.get("scale")
    if scale is None or scale.shape != (*x.shape[:2], 1) or not scale.is_floating_point():
        raise MessageError("states in int8 come with a scale for every token")
    return (x.float() * scale).to(dtype)
