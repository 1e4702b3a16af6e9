"""One PEFT folder in and out: `adapter_config.json`, `adapter_model.safetensors`, `README.md`.

Tensors go through byte for byte. What Weft adds (the base's fingerprint, provenance) lies in the metadata of
the safetensors, where PEFT does not look. Nothing is unpickled, and no tensor is read before its shape fits.
"""

import json
import math
import os
import re
import warnings
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weft.adapters.card import card
from weft.adapters.lora_config import config_of, parse, rank_and_scaling, unknown_keys
from weft.adapters.site import site_at
from weft.adapters.weights import tensor_bytes
from weft.errors import (
    AdapterFormatError,
    BaseMismatchError,
    MissingFileError,
    SaveError,
    ShapeError,
    UnsupportedAdapterError,
)
from weft.files import read_json, replace_folder, resolve
from weft.types import Adapter, Factors, Site

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
PICKLE = "adapter_model.bin"
MAX_RANK = 8192
"""Ranks above this are refused: one such adapter would blow up every bank that it is stacked into."""

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_DTYPES = ("F64", "F32", "F16", "BF16")
_OTHER_KINDS = {
    "lora_magnitude_vector": "a DoRA magnitude",
    "lora_embedding_": "an embedding LoRA",
    ".bias": "a bias",
}
_BASE, _PROVENANCE = "weft_base", "weft_provenance"


def load(path: str | os.PathLike[str], *, base: str = "") -> Adapter:
    """Read one PEFT LoRA folder, or an adapter that ships with Weft (`weft/...`), onto the CPU.

    `base` is the fingerprint of the base that it is meant for; a folder that names another one is refused,
    and a folder that names none takes it over. The adapter's name is the folder's.

    Raises MissingFileError, AdapterFormatError for a damaged folder (also ConfigError for invalid JSON),
    UnsupportedAdapterError for a kind that Weft does not run, and BaseMismatchError.
    """
    folder = resolve(path)
    if folder is None:
        raise MissingFileError(f"no adapter folder at {os.fspath(path)}")
    values = read_json(folder / CONFIG)
    if not isinstance(values, dict):
        raise AdapterFormatError(f"{folder / CONFIG} should hold keys and values, it holds {values!r:.40}")
    config = parse(values, folder / CONFIG)
    unknown = unknown_keys(values)
    if unknown:
        warnings.warn(f"{folder / CONFIG}: ignoring keys unknown to PEFT: {', '.join(unknown)}", stacklevel=2)
    file = folder / WEIGHTS
    if not file.is_file():
        if (folder / PICKLE).is_file():
            raise AdapterFormatError(
                f"{folder / PICKLE} is a pickle, which can run code and is never read; "
                "save the adapter again as safetensors"
            )
        raise MissingFileError(f"no such file: {file}")
    factors, metadata = _read(file, config)
    named = metadata.get(_BASE, "")
    if base and named and base != named:
        raise BaseMismatchError(f"{folder} belongs to base {named}, not to {base}")
    try:
        provenance = dict(json.loads(metadata.get(_PROVENANCE, "{}")))
    except (TypeError, ValueError) as error:
        raise AdapterFormatError(f"{file}: its provenance is not valid JSON: {error}") from error
    return Adapter(
        MappingProxyType(factors),
        base=named or base,
        name=folder.resolve().name,
        peft_config=MappingProxyType(values),
        provenance=MappingProxyType(provenance),
    )


def save(adapter: Adapter, path: str | os.PathLike[str]) -> None:
    """Write an adapter as a PEFT folder; equal adapters give equal bytes. A former adapter there is replaced.

    `provenance["base_model"]` becomes `base_model_name_or_path` for an adapter that was made here.

    Raises ShapeError for factors that no folder can hold (no sites, ranks that disagree, not finite), and
    SaveError when the disk refuses or when `path` holds anything but an adapter; what was there stays whole.
    """
    _check(adapter)
    _check_target(Path(path))
    config = config_of(adapter)
    tensors = {}
    for site, (a_RI, b_OR, _) in adapter.factors.items():
        tensors[f"base_model.model.{site.path}.lora_A.weight"] = a_RI
        tensors[f"base_model.model.{site.path}.lora_B.weight"] = b_OR
    metadata = {}
    if adapter.base:
        metadata[_BASE] = adapter.base
    if adapter.provenance:
        metadata[_PROVENANCE] = json.dumps(dict(adapter.provenance), sort_keys=True, ensure_ascii=False)
    weights = tensor_bytes(tensors, metadata)
    with replace_folder(path) as folder:
        # Key order is kept: of two patterns that match one module, PEFT takes the first.
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
        (folder / CARD).write_text(card(adapter), encoding="utf-8")
        (folder / WEIGHTS).write_bytes(weights)


def _read(file: Path, config: LoraConfig) -> tuple[dict[Site, Factors], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as weights:
            keys = weights.keys()
            scalings = _plan(file, config, {key: weights.get_slice(key) for key in keys})
            factors = {}
            for path, scaling in scalings.items():
                # Copies: the library's own tensors are windows into a file that may change.
                a_RI, b_OR = (
                    weights.get_tensor(f"base_model.model.{path}.lora_{x}.weight").clone() for x in "AB"
                )
                for tensor in (a_RI, b_OR):
                    if not _finite(tensor):
                        raise AdapterFormatError(f"{file}: the factors of {path} hold NaN or infinity")
                factors[site_at(path, a_RI.shape[1], b_OR.shape[0])] = Factors(a_RI, b_OR, scaling)
            return factors, dict(weights.metadata() or {})
    except SafetensorError as error:
        raise AdapterFormatError(f"{file} is damaged or cut short: {error}") from error


def _plan(file: Path, config: LoraConfig, slices: dict[str, Any]) -> dict[str, float]:
    """Scaling of every module path in a file, after checking names, types and shapes against the config."""
    halves: dict[str, dict[str, list[int]]] = {}
    for key, part in sorted(slices.items()):
        match = _KEY.fullmatch(key)
        if match is None:
            kind = next(
                (kind for mark, kind in _OTHER_KINDS.items() if mark in key), "no lora_A or lora_B weight"
            )
            raise UnsupportedAdapterError(f"{file}: {key} is {kind}, which Weft does not run")
        if part.get_dtype() not in _DTYPES:
            raise UnsupportedAdapterError(f"{file}: {key} is {part.get_dtype()}, expected one of {_DTYPES}")
        halves.setdefault(match[1], {})[match[2]] = part.get_shape()
    if not halves:
        raise AdapterFormatError(f"{file} holds no lora_A and lora_B weights")
    scalings = {}
    for path, shapes in halves.items():
        if len(shapes) < 2:
            raise AdapterFormatError(f"{file}: {path} has lora_{next(iter(shapes))} and not the other half")
        rank, scalings[path] = rank_and_scaling(config, path, file.with_name(CONFIG))
        a, b = shapes["A"], shapes["B"]
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank or rank > MAX_RANK or 0 in (*a, *b):
            raise AdapterFormatError(
                f"{file}: {path} has lora_A {a} and lora_B {b}, expected [{rank}, in] and [out, {rank}] "
                f"with a rank of at most {MAX_RANK}"
            )
    return scalings


def _check(adapter: Adapter) -> None:
    if not adapter.factors:
        raise ShapeError(f"adapter {adapter.name} changes no module, there is nothing to save")
    for site in adapter.sites:
        a_RI, b_OR, scaling = adapter.factors[site]
        rank = a_RI.shape[0]
        if (tuple(a_RI.shape), tuple(b_OR.shape)) != ((rank, site.in_features), (site.out_features, rank)):
            raise ShapeError(
                f"{site.path}: A is {tuple(a_RI.shape)} and B is {tuple(b_OR.shape)}, "
                f"expected [R, {site.in_features}] and [{site.out_features}, R]"
            )
        if not 1 <= rank <= MAX_RANK:
            raise ShapeError(
                f"{site.path} has rank {rank}, a folder holds 1 to {MAX_RANK}; truncate it first"
            )
        if not (_finite(a_RI) and _finite(b_OR) and math.isfinite(scaling)):
            raise ShapeError(f"{site.path} of adapter {adapter.name} holds NaN or infinity, it is not saved")


def _check_target(target: Path) -> None:
    # Replacing a folder deletes what is in it: never anything that is not an adapter of ours.
    if target.exists() and not target.is_dir():
        raise SaveError(f"{target} is a file; an adapter needs a folder of its own")
    names = {found.name for found in target.iterdir()} if target.is_dir() else set()
    others = sorted(names - {CONFIG, WEIGHTS, CARD} if CONFIG in names else names)
    if others:
        raise SaveError(f"{target} holds other files ({others[0]}); an adapter needs a folder of its own")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
