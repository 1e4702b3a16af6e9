"""Networks as folders: `config.json` says what it is, `model.safetensors` holds its numbers.

Routers, trees and hypernetworks are kept alike; each sort of them is a schema, a child of `Saved`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from weft.adapters import tensor_bytes
from weft.checks import MAX_BASE, MAX_TENSOR
from weft.config import Config, parse_config
from weft.errors import (
    AdapterFormatError,
    BaseMismatchError,
    ConfigError,
    MissingFileError,
    ShapeError,
    WeightsError,
)
from weft.files import check_free, nearest, read_json, replace_folder, resolve, to_json
from weft.plain import plain
from weft.tensor_file import read_header
from weft.types import Site

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Shapes = Mapping[str, tuple[int | None, ...]]
"""The shape of every tensor by its name; None is any size of 1 or more."""
Found = Mapping[str, tuple[int, ...]]
"""The shapes that a header states."""
_Features = Annotated[int, Field(ge=1, le=1 << 21)]
SavedSite = tuple[str, Annotated[int, Field(ge=-1, le=1 << 16)], str, _Features, _Features]
"""Path, layer, module, in and out features."""
_DTYPES = ("F64", "F32", "F16", "BF16")


class Saved(Config):
    """What every `config.json` holds."""

    sort: ClassVar[str]
    """What people call it: a router, a tree, a hypernetwork."""
    format: Literal[1]
    kind: Any
    """In a child, the literals that it may be."""
    base: str = Field(max_length=MAX_BASE)
    """Fingerprint of the base that it is for; empty where nobody said."""
    provenance: dict[str, Any]


_LARGE = 64 << 20
"""Bytes from which on a file is not read before it is known to lie on the disk, and not just to say so."""

S = TypeVar("S", bound=Saved)
M = TypeVar("M", bound=nn.Module)


def write(
    folder: str | os.PathLike[str],
    schema: type[Saved],
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a folder; one of its sort that is there is replaced.

    Raises ConfigError for values that the schema refuses, ShapeError for NaN or infinity, SaveError when the
    disk refuses or the folder holds anything else; what was there stays whole.
    """
    target = Path(folder)
    values = {"format": 1, **values}
    saved = parse_config(schema, values, f"the config of this {schema.sort}")
    _check_target(target, schema)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ShapeError(f"{name} of the {saved.kind} holds NaN or infinity, it is not saved")
    weights = tensor_bytes(tensors, {})
    with replace_folder(target) as fresh:
        (fresh / CONFIG).write_text(to_json(values), encoding="utf-8")
        (fresh / WEIGHTS).write_bytes(weights)


def describe(folder: str | os.PathLike[str], schema: type[S]) -> tuple[S, Path]:
    """What a folder says of itself, and where it is; no weights are read.

    Raises MissingFileError, ConfigError for what is of another sort or no such config.
    """
    found = resolve(folder)
    if found is None:
        raise MissingFileError(f"no {schema.sort} folder at {os.fspath(folder)}")
    values = read_json(found / CONFIG)
    kind = _kind(values)
    if kind not in _kinds(schema):
        held = f"a {plain(kind[:60])}" if isinstance(kind, str) else "something else"
        raise ConfigError(f"{found / CONFIG} describes {held}, not a {schema.sort}")
    return parse_config(schema, {**values, "kind": kind}, str(found / CONFIG)), found


def read_tensors(file: Path, shapes: Shapes | Callable[[Found], Shapes] | None = None) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU, once its header agrees with the shapes that a config asks for.

    `shapes` may be made from those that the header states; without it any will do. Raises MissingFileError,
    or WeightsError for damage, NaN or infinity, another type than floating point, and for a tensor that is
    missing, of another shape, or unknown.
    """
    if not file.is_file():
        raise MissingFileError(f"no such file: {file}")
    try:
        header = read_header(file)
    except AdapterFormatError as error:
        raise WeightsError(f"damaged or cut short: {error}") from error
    for spec in header.specs:
        if spec.dtype not in _DTYPES:
            raise WeightsError(f"{file}: {spec.name} is {spec.dtype}, expected one of {', '.join(_DTYPES)}")
        if spec.end - spec.begin > MAX_TENSOR:
            raise WeightsError(f"{file}: {spec.name} has {spec.end - spec.begin} bytes, at most {MAX_TENSOR}")
    if shapes is not None:
        found = {spec.name: spec.shape for spec in header.specs}
        _check_shapes(file, found, shapes(found) if callable(shapes) else shapes)
    on_disk = file.stat()
    if on_disk.st_size > _LARGE and on_disk.st_blocks * 512 < on_disk.st_size // 4:
        raise WeightsError(f"{file} says {on_disk.st_size} bytes and is mostly holes; copy it again")
    try:
        tensors = load(file.read_bytes())
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged or cut short: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{file}: {name} holds NaN or infinity")
    return tensors


def load_module(file: Path, build: Callable[[], M]) -> M:
    """A network as `build` makes it, with the numbers of a file. Raises what `read_tensors` raises.

    Its sizes are told by one on the meta device: a config is small, what it asks for may not be. Weights that
    are drawn, only to be overwritten, do not move the caller's random state.
    """
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            sized = build()
        tensors = read_tensors(file, {name: tuple(x.shape) for name, x in sized.state_dict().items()})
        made = build()
    made.load_state_dict(tensors)
    return made


def _check_shapes(file: Path, found: Found, shapes: Shapes) -> None:
    for name in sorted(shapes.keys() - found.keys()):
        raise WeightsError(f"{file} lacks {name}, which its config asks for")
    for name in sorted(found.keys() - shapes.keys()):
        raise WeightsError(f"{file} holds {name}, which its config does not know{nearest(name, shapes)}")
    for name, shape in sorted(shapes.items()):
        given = found[name]
        if len(given) != len(shape) or any(
            size < 1 if want is None else size != want for size, want in zip(given, shape, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise WeightsError(f"{file}: {name} is {list(given)}, its config asks for [{wanted}]")


def check_base(saved: Saved, folder: Path, fingerprint: str) -> None:
    """Raise BaseMismatchError for another base; an empty fingerprint, on either side, is not compared."""
    if saved.base and fingerprint and saved.base != fingerprint:
        raise BaseMismatchError(
            f"the {saved.kind} at {folder} is for base {saved.base}, this one is {fingerprint}; "
            "load the base that it was trained for"
        )


def list_sites(sites: Sequence[Site]) -> tuple[SavedSite, ...]:
    """Sites as a config holds them."""
    return tuple((s.path, s.layer, s.module, s.in_features, s.out_features) for s in sites)


def _kinds(schema: type[Saved]) -> tuple[str, ...]:
    return get_args(schema.model_fields["kind"].annotation)


def _kind(values: Any) -> Any:
    """What a config says of itself; the first hypernetworks said nothing."""
    if not isinstance(values, dict):
        return None
    if "kind" not in values and {"encoder", "network"} <= values.keys():
        return "hypernetwork"
    return values.get("kind")


def _check_target(folder: Path, schema: type[Saved]) -> None:
    known = (folder / CONFIG).is_file() and _kind(read_json(folder / CONFIG)) in _kinds(schema)
    check_free(folder, f"a {schema.sort}", (CONFIG, WEIGHTS) if known else ())
