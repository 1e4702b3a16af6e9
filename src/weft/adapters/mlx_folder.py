"""A LoRA folder of mlx-lm: `adapter_config.json`, and `adapters.safetensors` with A and B transposed.

    y = W x + scale * (x lora_a) lora_b        lora_a: [in, R]   lora_b: [R, out]

Keys are `<module path>.lora_a` and `.lora_b`; the scale is a number of its own, not alpha over rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from weft.adapters.check import check_finite
from weft.adapters.peft_plan import DTYPES
from weft.adapters.site import site_at
from weft.checks import MAX_TENSOR, check_shapes
from weft.errors import AdapterFormatError, MissingFileError, UnsupportedAdapterError
from weft.reading import shown
from weft.tensor_file import Header, read_header
from weft.types import Factors, Site

WEIGHTS = "adapters.safetensors"


def is_mlx(values: Mapping[str, Any]) -> bool:
    """Whether a config is one of mlx-lm rather than PEFT's."""
    return "peft_type" not in values and ("lora_parameters" in values or "fine_tune_type" in values)


def read_mlx(folder: Path, values: Mapping[str, Any]) -> dict[Site, Factors]:
    """The factors in a folder, laid out as PEFT does; names, types and shapes are checked first.

    Raises UnsupportedAdapterError for DoRA, full weights and experts, AdapterFormatError for damage, and
    MissingFileError.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise MissingFileError(f"no such file: {file}")
    sites, scale = _plan(file, values, read_header(file))
    factors = {}
    with safe_open(file, framework="pt") as weights:
        for site in sites:
            a_IR, b_RO = (weights.get_tensor(f"{site.path}.{half}") for half in ("lora_a", "lora_b"))
            factors[site] = Factors(a_IR.mT.contiguous().clone(), b_RO.mT.contiguous().clone(), scale)
            check_finite(f"{file}: {site.path}", factors[site], error=AdapterFormatError)
    return factors


def _plan(file: Path, values: Mapping[str, Any], header: Header) -> tuple[list[Site], float]:
    kind = values.get("fine_tune_type", "lora")
    if kind != "lora":
        raise UnsupportedAdapterError(f"{file}: fine_tune_type is {shown(kind)}, Weft runs lora only")
    options = values.get("lora_parameters")
    scale = options.get("scale") if isinstance(options, dict) else None
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise AdapterFormatError(
            f"{file}: lora_parameters.scale is {shown(scale)}, it should be a finite number"
        )
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, dtype, shape, begin, end in header.specs:
        path, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b") or dtype not in DTYPES or len(shape) != 2:
            raise UnsupportedAdapterError(
                f"{file}: {name} ({dtype} {list(shape)}) is no lora_a or lora_b, which Weft does not run"
            )
        if end - begin > MAX_TENSOR:
            raise AdapterFormatError(f"{file}: {name} has {end - begin} bytes, at most {MAX_TENSOR} are read")
        halves.setdefault(path, {})[half] = shape
    sites = []
    for path, shapes in sorted(halves.items()):
        if len(shapes) < 2:
            raise AdapterFormatError(f"{file}: {path} has {next(iter(shapes))} and not the other half")
        a, b = shapes["lora_a"][::-1], shapes["lora_b"][::-1]
        check_shapes(f"{file}: {path}, transposed", a, b, error=AdapterFormatError)
        sites.append(site_at(path, a[1], b[0]))
    if not sites:
        raise AdapterFormatError(f"{file} holds no lora_a and lora_b weights")
    return sites, float(scale)
