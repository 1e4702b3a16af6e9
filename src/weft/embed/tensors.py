"""Reading a safetensors file whole, or saying in one line why not."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from weft.errors import MissingFileError, WeightsError


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU.

    Raises MissingFileError, or WeightsError for damage, NaN or infinity.
    """
    if not file.is_file():
        raise MissingFileError(f"no such file: {file}")
    try:
        tensors = load(file.read_bytes())
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged or cut short: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(f"{file}: {name} holds NaN or infinity")
    return tensors
