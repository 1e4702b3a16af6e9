"""A learned router as a folder: what it weighs by name, its options, and its tensors."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from torch import Tensor, nn

from weft import saved
from weft.config import Config, parse_config
from weft.embed.load import EncoderConfig, check_frozen
from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.files import nearest
from weft.reading import shown
from weft.route.weigh import AbstractWeigher
from weft.saved import CONFIG, WEIGHTS, Saved, Shapes, check_base, read_tensors
from weft.types import AbstractGate, Bank

C = TypeVar("C", bound=Config)
M = TypeVar("M", bound=nn.Module)


class SavedRouter(Saved):
    """What `config.json` holds."""

    sort: ClassVar[str] = "router"
    kind: Literal["blend", "classifier", "layers", "phatgoose", "smear", "top1", "xlora"]
    names: tuple[str, ...]
    """The adapters of its library, in its own order."""
    options: dict[str, Any]


def write_router(
    folder: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, Tensor],
    *,
    names: Sequence[str],
    base: str,
    options: Config,
    provenance: Mapping[str, Any],
) -> None:
    """Write a router.

    Raises ConfigError for no names or one that stands twice, and what `saved.write` raises.
    """
    _check_names(names, f"the library of this {kind}")
    values = {
        "kind": kind,
        "base": base,
        "names": list(names),
        "options": options.model_dump(mode="json"),
        "provenance": dict(provenance),
    }
    saved.write(folder, SavedRouter, values, tensors)


def describe_router(folder: str | os.PathLike[str]) -> tuple[SavedRouter, Path]:
    """What a folder says of its router, and where it is; no weights are read.

    Raises MissingFileError, ConfigError for what is no router.
    """
    router, found = saved.describe(folder, SavedRouter)
    _check_names(router.names, str(found / CONFIG))
    return router, found


def open_router(folder: str | os.PathLike[str], kind: str, schema: type[C]) -> tuple[SavedRouter, C, Path]:
    """What a folder says of a router of one kind, its options, and where it is; no weights are read.

    Raises what `describe_router` raises, ConfigError for another kind or an option that is unknown.
    """
    router, found = describe_router(folder)
    if router.kind != kind:
        raise ConfigError(f"{found} holds a {router.kind}, not a {kind}; load_router reads either")
    return router, parse_config(schema, router.options, f"{found / CONFIG}: options"), found


def read_router(folder: Path, shapes: Shapes) -> dict[str, Tensor]:
    """The tensors of a router in float32. Raises WeightsError for damage, NaN, or tensors that do not fit."""
    return {name: tensor.float() for name, tensor in read_tensors(folder / WEIGHTS, shapes).items()}


class WeigherOptions(Config):
    """What the folder of every weigher says, beside the options of its own kind."""

    encoder: EncoderConfig
    encoder_identity: str
    top_k: int | None
    threshold: float | None = None


W = TypeVar("W", bound=WeigherOptions)


def weigher_options(schema: type[W], weigher: AbstractWeigher, **own: Any) -> W:
    """The options of a weigher, and those of its own kind. Raises ConfigError for an encoder that learns."""
    check_frozen(weigher.encoder)
    shared = {"encoder": weigher.encoder.config(), "encoder_identity": weigher.encoder.identity}
    return schema(**shared, top_k=weigher.top_k, threshold=weigher.threshold, **own)


class GateParts(NamedTuple):
    """What a gate is made from again."""

    kind: str
    adapters: int
    """How many adapters it weighs."""
    tensors: Mapping[str, Tensor]
    options: Config


class AbstractSavedGate(AbstractGate):
    """A gate that is kept as a folder, beside the library that it weighs."""

    @abstractmethod
    def parts(self) -> GateParts:
        """What its folder holds."""

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        bank: Bank,
        *,
        provenance: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write a router folder; `bank` is its library, and a router that is there is replaced.

        Raises ShapeError for a bank of another size or NaN, SaveError when the disk refuses or the folder
        holds other files.
        """
        kind, count, tensors, options = self.parts()
        if len(bank) != count:
            raise ShapeError(
                f"a {kind.upper()} over {count} adapters is saved with its library, "
                f"this bank holds {len(bank)}"
            )
        about = {"names": bank.names, "base": bank.base, "provenance": provenance}
        write_router(folder, kind, tensors, options=options, **about)


def read_gate(
    folder: str | os.PathLike[str],
    kind: str,
    bank: Bank,
    schema: type[C],
    shapes: Callable[[Bank, C], Shapes],
) -> tuple[C, dict[str, Tensor]]:
    """Options and tensors of a gate of one kind, for the bank that is its library, adapter by adapter.

    Raises MissingFileError, ConfigError, BaseMismatchError, UnknownNameError for an adapter that the bank
    lacks, ShapeError for another order, WeightsError for damage, NaN, or tensors that do not fit.
    """
    router, options, found = open_router(folder, kind, schema)
    check_base(router, found, bank.base)
    check_known(router, found, bank.names)
    if bank.names != router.names:
        raise ShapeError(
            f"the {kind} at {found} weighs {len(router.names)} adapters in an order of its own, "
            f"this bank holds {len(bank)} in another; load_router puts them right"
        )
    return options, read_router(found, shapes(bank, options))


def filled(gate: M, tensors: Mapping[str, Tensor], bank: Bank) -> M:
    """A gate with these parameters, frozen, in evaluation mode, on the device of its bank."""
    gate.load_state_dict(dict(tensors))
    device = next((a_KRI.device for a_KRI in bank.a.values()), None)
    return gate.to(device).eval().requires_grad_(False)


def check_known(router: SavedRouter, folder: Path, names: Sequence[str]) -> None:
    """Raise UnknownNameError where a library of these names lacks an adapter of the router."""
    for name in router.names:
        if name not in names:
            raise UnknownNameError(
                f"the {router.kind} at {folder} weighs adapter {shown(name)}, which this library lacks"
                f"{nearest(name, names)}"
            )


def _check_names(names: Sequence[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        wrong = f"the adapter {shown(twice[0])} twice" if twice else "no adapter"
        raise ConfigError(f"{where} names {wrong}; a router needs one or more, all different")
