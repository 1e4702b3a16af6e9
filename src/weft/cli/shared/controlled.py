"""What changes adapters while a model answers, for `generate`: a shift, a window, or an activated LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.checks import CONFIG
from weft.cli.shared.model import ModelFlags
from weft.errors import ConfigError
from weft.files import found_near, read_json, resolve

if TYPE_CHECKING:
    from weft.host import Host
    from weft.hyper.shift_controller import ShiftController
    from weft.rows import AbstractController, Share
    from weft.types import Adapter

_CHUNKS = 4
"""A window holds so many chunks unless told."""


def controlled(model: ModelFlags, shift: str | None, context: str | None = None) -> bool:
    """Whether a shift or a window is asked for, or an adapter that begins at invocation tokens."""
    own = shift is not None or context is not None
    return own or any(_is_activated(folder) for folder in model.adapter)


def load_controlled(
    model: ModelFlags, shift: str | None, context: str | None = None, window: int | None = None
) -> tuple[Host, list[Adapter], Share, AbstractController]:
    """The base, the adapters, and what changes them. Raises ConfigError for others beside them."""
    if shift is not None and context is not None:
        raise ConfigError("--shift and --context each change the adapters in their own way; choose one")
    if model.host is not None:
        raise ConfigError(
            "adapters that change while the model answers are for a base of this process; leave out --host"
        )
    own = shift is not None or context is not None
    if model.describe is not None or model.weight or len(model.adapter) > (0 if own else 1):
        flag = "--shift" if context is None else "--context"
        who = f"{flag} brings its adapters" if own else "an activated LoRA acts alone, at weight 1"
        raise ConfigError(f"{who}; leave out --describe, --weight and other --adapter")
    if context is not None:
        return _windowed(model, context, window)
    return _shift(model, shift) if shift is not None else _activated(model)


def speaking(folder: str) -> Adapter:
    """The adapter that says when a shift of this folder comes, which tells a host the sites that it needs."""
    from weft.hyper.shifter import Shifter

    shifter = Shifter.from_pretrained(folder)
    return shifter.speaker.adapter(shifter.base)


def shifting(folder: str, host: Host) -> ShiftController:
    """What changes the rows of a host by the shift of a folder."""
    from weft.hyper.shifter import Shifter
    from weft.route import load_library

    shifter, found = Shifter.from_pretrained(folder, host=host), resolve(folder)
    assert found is not None
    named = found_near(shifter.library_folder, found)
    library = list(load_library(named).adapters) if shifter.library else []
    return shifter.controller(library)


def _host(model: ModelFlags, provenance: Mapping[str, Any], folder: Path, paths: Sequence[str]) -> Host:
    """The base that is asked for, or the one that a folder was made for, with the sites of that folder."""
    from weft.cli.shared.model import BASE
    from weft.host import Host

    base = model.base or found_near(provenance.get("base_model") or BASE, folder)
    return Host.from_pretrained(base, dtype=model.dtype, device=model.device, target_modules=list(paths))


def _shift(model: ModelFlags, folder: str) -> tuple[Host, list[Adapter], Share, AbstractController]:
    from weft.hyper.shifter import SavedShift
    from weft.rows import Share
    from weft.saved import describe

    saved, found = describe(folder, SavedShift)
    host = _host(model, saved.provenance, found, [values[0] for values in (*saved.sites, saved.head)])
    controller = shifting(folder, host)
    return host, [controller.speaker, *controller.library], Share(), controller


def _windowed(
    model: ModelFlags, folder: str, window: int | None
) -> tuple[Host, list[Adapter], Share, AbstractController]:
    from weft.hyper import ContextNetwork, WindowController
    from weft.hyper.context import SavedContext
    from weft.rows import Share
    from weft.saved import describe

    saved, found = describe(folder, SavedContext)
    host = _host(model, saved.provenance, found, [path for path, *_ in saved.sites])
    network = ContextNetwork.from_pretrained(folder, host=host)
    size = window or min(_CHUNKS * network.config.chunk, host.window or _CHUNKS * network.config.chunk)
    return host, [], Share(), WindowController(network, window=size)


def _activated(model: ModelFlags) -> tuple[Host, list[Adapter], Share, AbstractController]:
    from weft.adapters import load
    from weft.cli.shared.model import BASE, open_host
    from weft.engine import Activated
    from weft.engine.request import named_base
    from weft.rows import Share

    adapter = load(model.adapter[0], activated=True)
    name = model.base or named_base([adapter]) or BASE
    host = open_host(name, device=model.device, dtype=model.dtype, adapters=[adapter])
    return host, [adapter], Share(), Activated(host, adapter)


def _is_activated(folder: str) -> bool:
    found = resolve(folder)
    values = read_json(found / CONFIG) if found is not None and (found / CONFIG).is_file() else None
    return isinstance(values, dict) and bool(values.get("alora_invocation_tokens"))
