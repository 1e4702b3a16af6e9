"""A plug-in of vLLM: it finds `store:`, `gen:` and `blend:` names, and lays adapters out for it to load.

vLLM calls `register` in each of its processes, as the entry point `vllm.general_plugins`. An adapter goes
into `FOLDER/SHA256/`, written once and never changed: vLLM's cache of prefixes knows an adapter by its name
and path, so one path must never hold other weights. What vLLM cannot run is refused, and vLLM says 404.

    WEFT_VLLM_FOLDER         where adapters are laid out (else weft/vllm in the user's cache)
    WEFT_VLLM_STORES         folders of stores, separated by colons: store:NAME@REV, store:STORE/NAME@REV
    WEFT_VLLM_HYPERNETWORK   the hypernetwork of gen: names
    WEFT_VLLM_BASE           fingerprint of the base; adapters that name another one are refused
    WEFT_VLLM_MAX_LORA_RANK  what vLLM's --max-lora-rank is (else 16)
    WEFT_VLLM_NAMES          most names that are answered (else 1000), since vLLM forgets none of them
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.adapters import concat, for_vllm, save
from weft.errors import BaseMismatchError, ConfigError, UnknownNameError, WeftError
from weft.host.pool import content
from weft.registry import cache_folder
from weft.serve.names import Blend, Made, Named, Stored, parse
from weft.store import Store
from weft.types import Adapter, Description

log = logging.getLogger("weft.vllm")

OURS = ("store:", "gen:", "blend:")
"""How the names begin that the plug-in answers."""


def register() -> None:
    """Let vLLM ask Weft for names that it does not know. Calling it again changes nothing."""
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]
    from vllm.lora.resolver import (  # pyright: ignore[reportMissingImports]
        LoRAResolver,
        LoRAResolverRegistry,
    )

    if "weft" in LoRAResolverRegistry.get_supported_resolvers():
        return
    layout = Layout.of(os.environ)

    class Resolver(LoRAResolver):
        """Weft's names for vLLM."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            """A request for the folder of a name; None for one that is not Weft's, or cannot be run."""
            if not lora_name.startswith(OURS):
                return None
            try:
                folder = await asyncio.to_thread(layout.folder_of, lora_name)
            except (WeftError, OSError) as error:
                log.warning("%.80r is not served: %s", lora_name, error)
                return None
            # vLLM gives every adapter a number of its own in place of this one.
            return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))

    LoRAResolverRegistry.register_resolver("weft", Resolver())


class Layout:
    """Adapters by name, as folders by content. May be called from any thread.

    Raises ConfigError for two stores of one name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stores: Sequence[Path] = (),
        hypernetwork: str | None = None,
        base: str = "",
        max_lora_rank: int = 16,
        most: int = 1000,
    ) -> None:
        self.folder = folder
        self.stores = {path.resolve().name: path for path in stores}
        if len(self.stores) < len(stores):
            raise ConfigError(f"two of the stores have one name; there are {', '.join(map(str, stores))}")
        self.base, self.max_lora_rank, self.most = base, max_lora_rank, most
        self._named = hypernetwork
        self._hypernetwork: Any = None
        self._known: set[str] = set()
        self._lock = threading.Lock()  # networks are modules with modes, and a folder is written once

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Layout:
        """As the variables say. Raises ConfigError for a number that is none."""
        given = {name: environment.get(f"WEFT_VLLM_{name}", "") for name in _VARIABLES}
        try:
            rank, most = int(given["MAX_LORA_RANK"] or 16), int(given["NAMES"] or 1000)
        except ValueError:
            raise ConfigError("WEFT_VLLM_MAX_LORA_RANK and WEFT_VLLM_NAMES are whole numbers") from None
        return cls(
            Path(given["FOLDER"]) if given["FOLDER"] else cache_folder() / "vllm",
            stores=[Path(part) for part in given["STORES"].split(os.pathsep) if part],
            hypernetwork=given["HYPERNETWORK"] or None,
            base=given["BASE"],
            max_lora_rank=rank,
            most=most,
        )

    def folder_of(self, name: str) -> Path:
        """The folder of a name, written where it is not there yet.

        Raises ConfigError for what is no name and for too many of them, UnknownNameError for what is not
        there, BaseMismatchError, and what `for_vllm` and `save` raise.
        """
        with self._lock:
            if name not in self._known and len(self._known) >= self.most:
                raise ConfigError(f"{self.most} names were answered, vLLM would hold more than it should")
            adapter = self._adapter(name)
            if self.base and adapter.base and adapter.base != self.base:
                raise BaseMismatchError(f"it belongs to base {adapter.base}, not to {self.base}")
            ready = for_vllm(adapter, max_lora_rank=self.max_lora_rank)
            folder = self.folder / content(ready)
            if not folder.is_dir():
                save(ready, folder)
            self._known.add(name)
            return folder

    def _adapter(self, name: str) -> Adapter:
        match parse(name):
            case Stored() as spec:
                return self._stored(spec)
            case Made(text):
                if self._named is None:
                    raise ConfigError("WEFT_VLLM_HYPERNETWORK should name what makes adapters")
                if self._hypernetwork is None:
                    from weft.hyper import HyperNetwork

                    self._hypernetwork = HyperNetwork.from_pretrained(self._named)
                return self._hypernetwork.adapt(Description(text))
            case Blend(parts):
                named = [part.name for part, _ in parts if isinstance(part, Named)]
                if named:
                    raise UnknownNameError(f"there is no shelf here for {named[0]}; write store:{named[0]}")
                adapters = [self._stored(part) for part, _ in parts if isinstance(part, Stored)]
                return concat(adapters, [weight for _, weight in parts])
        raise ConfigError(f"vLLM runs no {name.partition(':')[0]}: names, it has one adapter for a request")

    def _stored(self, spec: Stored) -> Adapter:
        if not spec.store and len(self.stores) != 1:
            raise UnknownNameError(f"{len(self.stores)} stores are open; name one: store:STORE/{spec.name}")
        store = spec.store or next(iter(self.stores))
        if store not in self.stores:
            raise UnknownNameError(f"no store {store}; WEFT_VLLM_STORES names those there are")
        with Store(self.stores[store]) as opened:
            return opened.load(spec.name, rev=spec.revision)


_VARIABLES = ("FOLDER", "STORES", "HYPERNETWORK", "BASE", "MAX_LORA_RANK", "NAMES")
