"""Copies of base weights that PEFT saves beside the LoRA of a head or an embedding."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from weft.adapters.hub import folder_of
from weft.adapters.lora_config import parse
from weft.adapters.mlx_folder import is_mlx
from weft.adapters.peft_plan import plan_of
from weft.checks import CONFIG, weights_file
from weft.errors import UnsupportedAdapterError
from weft.files import read_json
from weft.tensor_file import read_header


def has_copies(path: str | os.PathLike[str]) -> bool:
    """Whether an adapter folder holds copies of base weights. Raises what `load` raises."""
    return bool(_copies(path)[1])


def check_copies(path: str | os.PathLike[str], module: nn.Module) -> None:
    """Compare the copies of base weights in an adapter folder with those of a base.

    Raises UnsupportedAdapterError for one that differs (it was trained or resized, and the LoRA stands on
    it), and what `load` raises.
    """
    file, copies = _copies(path)
    if not copies:
        return
    known = dict(module.named_parameters(remove_duplicate=False))
    with safe_open(file, framework="pt") as weights:
        for place, key in copies.items():
            there = known.get(f"{place}.weight")
            same = there is not None and list(there.shape) == weights.get_slice(key).get_shape()
            if there is None or not same or not _is_copy(weights.get_tensor(key), there):
                raise UnsupportedAdapterError(
                    f"{file}: {key} is not the base's own weight; Weft changes no weights of the base, "
                    "so fold this adapter into it with PEFT's merge_and_unload"
                )


def _is_copy(copy: Tensor, there: Tensor) -> bool:
    """Whether both are the same numbers, or one a cast of the other, as training in half the size leaves."""
    copy = copy.to(there.device)
    return torch.equal(copy.to(there.dtype), there) or torch.equal(there.to(copy.dtype), copy)


def _copies(path: str | os.PathLike[str]) -> tuple[Path, dict[str, str]]:
    """The weights of an adapter, and the keys in them that are copies, by module path."""
    folder, _ = folder_of(path)
    values = read_json(folder / CONFIG)
    if not isinstance(values, dict) or is_mlx(values):
        return folder, {}
    file = weights_file(folder)
    return file, plan_of(file, parse(values, folder / CONFIG, activated=True), read_header(file)).copies
