"""A learned router as a folder: `config.json` (kind, library, options) and `model.safetensors`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from weft.adapters import tensor_bytes
from weft.config import Config, parse_config
from weft.embed import EncoderConfig, build_encoder
from weft.embed.tensors import read_tensors
from weft.errors import (
    BaseMismatchError,
    ConfigError,
    MissingFileError,
    SaveError,
    ShapeError,
    UnknownNameError,
    WeightsError,
)
from weft.files import nearest, read_json, replace_folder, resolve, to_json
from weft.host import Host
from weft.types import AbstractEncoder, Bank

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Kind = Literal["blend", "classifier", "layers", "phatgoose", "smear", "top1", "xlora"]
KINDS = get_args(Kind)

C = TypeVar("C", bound=Config)
M = TypeVar("M", bound=nn.Module)


class SavedRouter(Config):
    """What `config.json` holds."""

    format: Literal[1]
    kind: Kind
    base: str
    """Fingerprint of the base that its library is for; empty where nobody said."""
    names: tuple[str, ...]
    """The adapters of its library, in its own order."""
    options: dict[str, Any]
    provenance: dict[str, Any]


def write_router(
    folder: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, Tensor],
    *,
    names: Sequence[str],
    base: str,
    options: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a router; one that is there is replaced.

    Raises ConfigError for no names or one that stands twice, ShapeError for NaN or infinity, SaveError when
    the disk refuses or the folder holds other files; what was there stays whole.
    """
    target = Path(folder)
    _check_target(target)
    _check_names(names, f"the library of this {kind}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ShapeError(f"{name} of the {kind} holds NaN or infinity, it is not saved")
    values = {
        "format": 1,
        "kind": kind,
        "base": base,
        "names": list(names),
        "options": dict(options),
        "provenance": dict(provenance),
    }
    weights = tensor_bytes(tensors, {})
    with replace_folder(target) as fresh:
        (fresh / CONFIG).write_text(to_json(values), encoding="utf-8")
        (fresh / WEIGHTS).write_bytes(weights)


def describe_router(folder: str | os.PathLike[str]) -> tuple[SavedRouter, Path]:
    """What a folder says of its router, and where it is; no weights are read.

    Raises MissingFileError, ConfigError for what is no router.
    """
    found = resolve(folder)
    if found is None:
        raise MissingFileError(f"no router folder at {os.fspath(folder)}")
    values = read_json(found / CONFIG)
    if not _is_router(values):
        kind = values.get("kind") if isinstance(values, dict) else None
        told = f"a {kind}" if isinstance(kind, str) else "something else"
        raise ConfigError(f"{found / CONFIG} describes {told}, not a router; they are {', '.join(KINDS)}")
    saved = parse_config(SavedRouter, values, str(found / CONFIG))
    _check_names(saved.names, str(found / CONFIG))
    return saved, found


def read_router(folder: str | os.PathLike[str], kind: str) -> tuple[SavedRouter, dict[str, Tensor], Path]:
    """A router of one kind with its tensors, and their file.

    Raises what `describe_router` raises, ConfigError for another kind, WeightsError for damage or NaN.
    """
    saved, found = describe_router(folder)
    if saved.kind != kind:
        raise ConfigError(f"{found} holds a {saved.kind}, not a {kind}; load_router reads either")
    return saved, read_tensors(found / WEIGHTS), found / WEIGHTS


def write_gate(
    folder: str | os.PathLike[str],
    kind: str,
    bank: Bank,
    tensors: Mapping[str, Tensor],
    *,
    options: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a gate with the names and the base of its library. Raises what `write_router` raises."""
    write_router(
        folder, kind, tensors, names=bank.names, base=bank.base, options=options, provenance=provenance
    )


def read_gate(
    folder: str | os.PathLike[str], kind: str, bank: Bank
) -> tuple[SavedRouter, dict[str, Tensor], Path]:
    """A gate of one kind for the bank that is its library, adapter by adapter.

    Raises what `read_router` raises, BaseMismatchError, UnknownNameError for an adapter that the bank lacks,
    ShapeError for another order or more adapters.
    """
    saved, tensors, file = read_router(folder, kind)
    check_base(saved, file, bank.base)
    check_known(saved, file, bank.names)
    if bank.names != saved.names:
        raise ShapeError(
            f"the {kind} at {file.parent} weighs {len(saved.names)} adapters in an order of its own, "
            f"this bank holds {len(bank)} in another; load_router puts them right"
        )
    return saved, tensors, file


def filled(gate: M, tensors: Mapping[str, Tensor], bank: Bank) -> M:
    """A gate with these parameters, frozen, in evaluation mode, on the device of its bank."""
    gate.load_state_dict(dict(tensors))
    device = next((a_KRI.device for a_KRI in bank.a.values()), None)
    return gate.to(device).eval().requires_grad_(False)


def options_of(schema: type[C], saved: SavedRouter, file: Path) -> C:
    """The options of a router, checked. Raises ConfigError."""
    return parse_config(schema, saved.options, f"{file.parent / CONFIG}: options")


def take(
    file: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]]
) -> list[Tensor]:
    """The tensors of these names and shapes in float32, and no other; None is any size of 1 or more.

    Raises WeightsError for one that is missing, of another shape, or unknown.
    """
    for name in sorted(shapes.keys() - tensors.keys()):
        raise WeightsError(f"{file} lacks {name}, which its config asks for")
    for name in sorted(tensors.keys() - shapes.keys()):
        raise WeightsError(f"{file} holds {name}, which its config does not know{nearest(name, shapes)}")
    for name, shape in shapes.items():
        given = tuple(tensors[name].shape)
        fits = len(given) == len(shape) and all(
            size >= 1 if want is None else size == want for size, want in zip(given, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise WeightsError(f"{file}: {name} is {list(given)}, its config asks for [{wanted}]")
    return [tensors[name].float() for name in shapes]


def check_base(saved: SavedRouter, file: Path, fingerprint: str) -> None:
    """Raise BaseMismatchError for another base; an empty fingerprint, on either side, is not compared."""
    if saved.base and fingerprint and saved.base != fingerprint:
        raise BaseMismatchError(
            f"the {saved.kind} at {file.parent} is for base {saved.base}, this one is {fingerprint}; "
            "load the base and the library that it was trained for"
        )


def check_known(saved: SavedRouter, file: Path, names: Sequence[str]) -> None:
    """Raise UnknownNameError where a library of these names lacks an adapter of the router."""
    for name in saved.names:
        if name not in names:
            raise UnknownNameError(
                f"the {saved.kind} at {file.parent} weighs adapter {name!r}, which this library lacks"
                f"{nearest(name, names)}"
            )


def check_count(bank: Bank, count: int, what: str) -> None:
    """Raise ShapeError where a bank is not as large as the gate that is to be saved for it."""
    if len(bank) != count:
        raise ShapeError(
            f"{what} over {count} adapters is saved with its library, this bank holds {len(bank)}"
        )


def check_frozen(encoder: AbstractEncoder) -> None:
    """Raise ConfigError for an encoder that learns: a router's folder holds none of its weights."""
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ConfigError("this router's encoder learns, and its folder would not hold it; use a frozen one")


def open_encoder(config: EncoderConfig, identity: str, file: Path, host: Host | None) -> AbstractEncoder:
    """The encoder of a saved router. Raises WeightsError where it is not the one that it was trained with."""
    encoder = build_encoder(config, host=host)
    check_frozen(encoder)
    if encoder.identity != identity:
        raise WeightsError(
            f"{file.parent} reads vectors of {identity}, this encoder is {encoder.identity}; "
            "install or load the one that it was trained with"
        )
    return encoder


def _check_names(names: Sequence[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        told = f"the adapter {twice[0]!r} twice" if twice else "no adapter"
        raise ConfigError(f"{where} names {told}; a router needs one or more, all different")


def _check_target(folder: Path) -> None:
    # Replacing a folder deletes what is in it: never anything that is not a router.
    if folder.exists() and not folder.is_dir():
        raise SaveError(f"{folder} is a file; a router needs a folder of its own")
    names = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if names and not (names == {CONFIG, WEIGHTS} and _is_router(read_json(folder / CONFIG))):
        raise SaveError(f"{folder} holds other files ({min(names)}); a router needs a folder of its own")


def _is_router(values: Any) -> bool:
    return isinstance(values, dict) and values.get("kind") in KINDS
