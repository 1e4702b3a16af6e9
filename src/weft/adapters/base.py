"""Which base adapters are for: by fingerprint where they carry one, by the name in their config where not.

PEFT looks at neither, and two adapters of different bases of one shape make a sum that means nothing.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Literal

from weft.adapters.card import base_model
from weft.errors import BaseMismatchError
from weft.types import Adapter

_CACHED = "models--"
"""How the Hub's cache names the folder of a model: models--OWNER--NAME."""

OnMismatch = Literal["refuse", "warn", "allow"]
"""What to do with an adapter of another base: refuse it, use it with a warning, use it in silence.

It is used on purpose where the two are nearly one network: trained on 4-bit weights and run on the full ones,
as QLoRA's users do, or trained on the base of a chat model.
"""


def check_one_base(adapters: Sequence[Adapter]) -> None:
    """Raise BaseMismatchError unless all are for one base, as far as they say.

    Different fingerprints differ, whatever the names. An adapter without one differs by the last part of its
    base's name, in small letters: the same base lies under many owners and in many folders.
    """
    printed = [adapter for adapter in adapters if adapter.base]
    named = [adapter for adapter in adapters if not adapter.base and base_model(adapter)]
    first = next(iter(printed), None) or next(iter(named), None)
    if first is None:
        return
    alike = {_last(base_model(adapter)) for adapter in printed if base_model(adapter)}
    alike = alike or {_last(base_model(adapter)) for adapter in named[:1]}
    for adapter in (*printed, *named):
        if adapter.base != first.base if adapter.base else _last(base_model(adapter)) not in alike:
            raise BaseMismatchError(
                f"adapters of different bases: {first.name} is for {_told(first)}, {adapter.name} for "
                f"{_told(adapter)}; where these are nearly one network, say so by --base-mismatch warn "
                "(in Python, weft.adapters.on_one_base)"
            )


def on_one_base(adapters: Sequence[Adapter], on_mismatch: OnMismatch) -> list[Adapter]:
    """The adapters, all for the base of the first: those of another one are moved to it, or refused.

    Raises BaseMismatchError as `check_one_base` does.
    """
    try:
        check_one_base(adapters)
    except BaseMismatchError:
        if on_mismatch == "refuse":
            raise
        first = adapters[0]
        if on_mismatch == "warn":
            warnings.warn(f"adapters of different bases are taken for ones of {_told(first)}", stacklevel=2)
        return [_moved(adapter, first.base, base_model(first)) for adapter in adapters]
    return list(adapters)


def on_host(adapter: Adapter, base: str, name: str, on_mismatch: OnMismatch) -> Adapter:
    """The adapter for a host of this fingerprint and name; one of another base is moved to it, or refused.

    A name alone never refuses, it warns; that of a folder says nothing. Raises BaseMismatchError.
    """
    known = "" if Path(name).is_dir() else name
    host = Adapter({}, base=base, name="the host", provenance={"base_model": known})
    try:
        check_one_base([host, adapter])
    except BaseMismatchError:
        if on_mismatch == "refuse" and adapter.base:
            raise BaseMismatchError(
                f"adapter {adapter.name} belongs to base {_told(adapter)}, this one is {_told(host)}; "
                "load the base that it was made for, or say --base-mismatch warn where they are nearly one"
            ) from None
        if on_mismatch != "allow":
            warnings.warn(
                f"adapter {adapter.name} was made for base {_told(adapter)} and runs on {_told(host)}",
                stacklevel=2,
            )
        return _moved(adapter, base, name)
    return adapter


def _moved(adapter: Adapter, base: str, name: str) -> Adapter:
    """The same factors, said to be for another base; the provenance keeps what they were made for."""
    made_for = {"fingerprint": adapter.base, "base_model": base_model(adapter)}
    if made_for == {"fingerprint": base, "base_model": name}:
        return adapter
    config = adapter.peft_config
    if config:
        config = MappingProxyType({**config, "base_model_name_or_path": name or None})
    provenance = {**adapter.provenance, "base_model": name, "made_for": made_for}
    return replace(adapter, base=base, peft_config=config, provenance=MappingProxyType(provenance))


def _last(name: str) -> str:
    """The last part of a name or path, in small letters; in the Hub's cache, that of the repository."""
    parts = PurePath(name.replace("\\", "/")).parts
    cached = next((part for part in parts if part.startswith(_CACHED)), None)
    return (cached.rpartition("--")[2] if cached else parts[-1] if parts else "").lower()


def _told(adapter: Adapter) -> str:
    """Name and fingerprint, as far as they are known."""
    name = base_model(adapter)
    return f"{name} ({adapter.base})" if name and adapter.base else name or adapter.base or "an unknown base"
