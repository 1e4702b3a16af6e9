"""A library on disk: one folder of PEFT folders on one base, and what their cards say they do."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from weft.adapters import check_one_base, descriptions_of, load_each
from weft.adapters.card import base_model
from weft.checks import CONFIG
from weft.errors import (
    BaseCopyWarning,
    BaseMismatchError,
    ConfigError,
    MissingFileError,
    ShapeError,
    UnknownNameError,
    WeftError,
)
from weft.files import folders_with, nearest, read_json, resolve
from weft.host import compare_copies, fitted
from weft.rows import AbstractHost
from weft.types import Adapter, Bank, Site

LABELS = "labels.json"
"""What the adapters of a library do, in its own words."""


Label = str | tuple[str, ...]
"""What an adapter does, in one description or in several."""


class Library(NamedTuple):
    """The adapters of a folder."""

    adapters: tuple[Adapter, ...]
    """In the order of their names."""
    labels: dict[str, Label]
    """What an adapter does, by its name: as the library's labels file says, else as its card does."""
    base_model: str
    """Name of the base as its users know it; empty where no card says it."""
    folders: tuple[Path, ...] = ()
    """Where the adapters were read, in their order."""

    def fitting(self, host: AbstractHost, *, strict: bool = False) -> Library:
        """The library without the adapters whose sites a host lacks, each named in a warning.

        So are those that bring base weights of their own. Raises BaseMismatchError for a library of another
        base, and what `check_fits` and `check_copies` raise: for the first adapter where `strict`, else where
        none fits.
        """
        folders = {adapter.name: folder for adapter, folder in zip(self.adapters, self.folders, strict=False)}

        def fit(adapter: Adapter) -> Adapter:
            folder = folders.get(adapter.name)
            if folder is not None:
                compare_copies(folder, host)
            return fitted(adapter, host)

        adapters = _sound(self.adapters, fit, strict, always=(BaseMismatchError,))
        names = {adapter.name for adapter in adapters}
        return self._replace(
            adapters=adapters, labels={name: label for name, label in self.labels.items() if name in names}
        )

    def bank(self, host: AbstractHost) -> Bank:
        """All adapters stacked on the device of a host, in the number type that they were stored in.

        Raises what `check_fits` raises, BaseMismatchError for adapters of different bases.
        """
        check_one_base(self.adapters)
        return Bank.stack([fitted(adapter, host) for adapter in self.adapters]).to(host.device)

    def descriptions(self) -> dict[str, Label]:
        """The label of every adapter. Raises ConfigError for one without."""
        for adapter in self.adapters:
            if adapter.name not in self.labels:
                raise ConfigError(
                    f"adapter {adapter.name} has no description to choose it by; weft describe gives it one, "
                    f"or {LABELS} in its library; arrow and spectr need none"
                )
        return dict(self.labels)


def load_library(
    folder: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None, strict: bool = False
) -> Library:
    """Read all adapters right inside a folder, or of a library that ships with Weft.

    An adapter that is damaged, or of another base or size than most, is named in a warning and left out,
    unless `strict`.

    Raises MissingFileError for no folder or no adapter in it, ConfigError for a wrong labels file, and what
    loading an adapter raises: for the first one where `strict`, else where none is left.

    Args:
        folder: Folder of adapter folders, or the name of a library that ships with Weft.
        labels: JSON file from adapter names to descriptions (one each or a list), which win over the cards';
            `labels.json` in the library unless given.
        strict: Whether the first adapter that cannot be used is an error.

    Example:
        >>> from weft.route import load_library
        >>> library = load_library("weft/letters-adapters")
        >>> len(library.adapters), library.labels["reverse"]
        (32, 'reverse the text')
    """
    found = resolve(folder)
    if found is None:
        raise MissingFileError(f"no library at {os.fspath(folder)}; it is a folder of adapter folders")
    paths = folders_with(found, CONFIG)
    if not paths:
        raise MissingFileError(f"no adapter in {found}; a library is a folder of adapter folders")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BaseCopyWarning)  # compared when the base is there
        loaded = load_each(paths, strict=strict)
    adapters = tuple(loaded.values())
    folder_of = {id(adapter): path for path, adapter in loaded.items()}
    adapters = _sound(adapters, _like_most(adapters), strict)
    values = {adapter.name: descriptions_of(adapter) for adapter in adapters}
    file = found / LABELS if labels is None else Path(labels)
    if labels is not None or file.is_file():
        values |= _read_labels(file, {path.name for path in paths})
    return Library(
        adapters,
        {
            name: texts[0] if len(texts) == 1 else texts
            for name, texts in ((adapter.name, values[adapter.name]) for adapter in adapters)
            if texts
        },
        next((base_model(adapter) for adapter in adapters if base_model(adapter)), ""),
        tuple(folder_of[id(adapter)] for adapter in adapters),
    )


def texts_of(label: Label) -> tuple[str, ...]:
    """The descriptions in a label."""
    return (label,) if isinstance(label, str) else label


def _read_labels(file: Path, names: set[str]) -> dict[str, tuple[str, ...]]:
    values = read_json(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file} should map names of adapters to descriptions, it holds {values!r:.40}")
    labels = {}
    for name, given in values.items():
        if name not in names:
            raise UnknownNameError(f"{file}: no adapter {name!r} in this library{nearest(name, names)}")
        texts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else ()
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigError(f"{file}: {name} should have a description, or a list of them")
        labels[name] = texts
    return labels


def _sound(
    adapters: tuple[Adapter, ...],
    check: Callable[[Adapter], Adapter],
    strict: bool,
    always: tuple[type[WeftError], ...] = (),
) -> tuple[Adapter, ...]:
    """What a check makes of those that pass; the others are named in a warning.

    Raises where `strict`, for the errors of `always`, and where none passes.
    """
    kept, errors = [], []
    for adapter in adapters:
        try:
            kept.append(check(adapter))
        except WeftError as error:
            if strict or isinstance(error, always):
                raise
            errors.append((adapter.name, error))
    if errors and not kept:
        raise errors[0][1]
    for name, error in errors:
        warnings.warn(f"left out adapter {name}: {error}", stacklevel=3)
    return tuple(kept)


def _like_most(adapters: tuple[Adapter, ...]) -> Callable[[Adapter], Adapter]:
    """A check that an adapter names the base that most name, and that its sites are as large as theirs."""
    bases = Counter(adapter.base for adapter in adapters if adapter.base)
    base = next((name for name, _ in bases.most_common(1)), "")
    sizes = Counter(site for adapter in adapters if adapter.base in ("", base) for site in adapter.sites)
    usual: dict[str, Site] = {}
    for site, _ in sizes.most_common():
        usual.setdefault(site.path, site)

    def check(adapter: Adapter) -> Adapter:
        if adapter.base and adapter.base != base:
            raise BaseMismatchError(f"it belongs to base {adapter.base}, the library to {base}")
        for site in adapter.sites:
            if usual[site.path] != site:
                other = usual[site.path]
                raise ShapeError(
                    f"it changes {site.path} from {site.in_features} to {site.out_features} features, "
                    f"the library has {other.in_features} to {other.out_features}"
                )
        return adapter

    return check


def select(bank: Bank, names: Sequence[str]) -> Bank:
    """The adapters of these names, in this order. Raises UnknownNameError."""
    place = {name: k for k, name in enumerate(bank.names)}
    for name in names:
        if name not in place:
            raise UnknownNameError(f"no adapter {name!r} in this library{nearest(name, place)}")
    device = next((a_KRI.device for a_KRI in bank.a.values()), None)
    return bank.select(torch.tensor([place[name] for name in names], dtype=torch.long, device=device))
