"""A library on disk: one folder of PEFT folders on one base, and what their cards say they do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

from weft.adapters import check_fits, load
from weft.adapters.card import base_model
from weft.errors import AdapterFormatError, ConfigError, MissingFileError, UnknownNameError
from weft.files import nearest, resolve
from weft.host import Host
from weft.types import Adapter, Bank


class Library(NamedTuple):
    """The adapters of a folder."""

    adapters: tuple[Adapter, ...]
    """In the order of their names."""
    labels: dict[str, str]
    """The description in an adapter's card, by its name; those without one are left out."""
    base_model: str
    """Name of the base as its users know it; empty where no card says it."""

    def bank(self, host: Host) -> Bank:
        """All adapters stacked, in the number type and on the device of a host.

        Raises what `check_fits` raises, BaseMismatchError for adapters of different bases.
        """
        for adapter in self.adapters:
            check_fits(adapter, host.sites, host.fingerprint)
        return Bank.stack(self.adapters).to(host.device, host.dtype)

    def descriptions(self) -> dict[str, str]:
        """The label of every adapter. Raises ConfigError for one without."""
        for adapter in self.adapters:
            if adapter.name not in self.labels:
                raise ConfigError(
                    f"the card of adapter {adapter.name} has no description to choose it by; "
                    "arrow and spectr need none"
                )
        return dict(self.labels)


def load_library(folder: str | os.PathLike[str]) -> Library:
    """Read all adapters right inside a folder, or of a library that ships with Weft.

    Raises MissingFileError for no folder or no adapter in it, AdapterFormatError for NaN, and what loading an
    adapter raises.
    """
    found = resolve(folder)
    if found is None:
        raise MissingFileError(f"no library at {os.fspath(folder)}; it is a folder of adapter folders")
    paths = sorted(path.parent for path in found.glob("*/adapter_config.json"))
    if not paths:
        raise MissingFileError(f"no adapter in {found}; a library is a folder of adapter folders")
    adapters = tuple(load(path) for path in paths)
    for adapter in adapters:
        for site, (a_RI, b_OR, _) in adapter.factors.items():
            if not (torch.isfinite(a_RI).all() and torch.isfinite(b_OR).all()):
                raise AdapterFormatError(f"adapter {adapter.name} holds NaN or infinity at {site.path}")
    labels = {adapter.name: adapter.provenance.get("description") for adapter in adapters}
    return Library(
        adapters,
        {name: text for name, text in labels.items() if isinstance(text, str) and text.strip()},
        next((base_model(adapter) for adapter in adapters if base_model(adapter)), ""),
    )


def select(bank: Bank, names: Sequence[str]) -> Bank:
    """The adapters of these names, in this order. Raises UnknownNameError."""
    place = {name: k for k, name in enumerate(bank.names)}
    for name in names:
        if name not in place:
            raise UnknownNameError(f"no adapter {name!r} in this library{nearest(name, place)}")
    device = next((a_KRI.device for a_KRI in bank.a.values()), None)
    return bank.select(torch.tensor([place[name] for name in names], dtype=torch.long, device=device))
