"""An adapter as a host runs it: its modules by the names that this release of the network has for them.

Where a file names modules as an older release of transformers did (`language_model.model.layers` for
`model.language_model.layers`), they are renamed by transformers' own table, as PEFT does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from weft.adapters import OnMismatch, check_copies, check_fits, has_copies, on_host, site_at
from weft.errors import BaseCopyWarning
from weft.host.host import Host
from weft.host.sites import ALL_LINEAR
from weft.rows import AbstractHost
from weft.types import Adapter, Site


def targets_for(adapters: Sequence[Adapter]) -> list[str]:
    """`target_modules` of a host for these adapters: all linear modules, and a head that one changes."""
    outside = {site.module for adapter in adapters for site in adapter.sites if site.layer < 0}
    return [ALL_LINEAR, *sorted(outside)]


def fitted(adapter: Adapter, host: AbstractHost, on_mismatch: OnMismatch = "refuse") -> Adapter:
    """The adapter with the module names of a host, checked against it; `on_host` says of which base.

    Raises what `check_fits` and `on_host` raise.
    """
    adapter = on_host(adapter, host.fingerprint, host.name, on_mismatch)
    here = {site.path: site for site in host.sites}
    if isinstance(host, Host) and any(site.path not in here for site in adapter.sites):
        renamed = {site: _renamed(site, host.module) for site in adapter.sites}
        if all(site.path in here for site in renamed.values()) and len(set(renamed.values())) == len(renamed):
            factors = {renamed[site]: adapter.factors[site] for site in adapter.sites}
            adapter = replace(adapter, factors=MappingProxyType(factors))
    check_fits(adapter, host.sites, host.fingerprint)
    return adapter


def compare_copies(folder: str | os.PathLike[str], host: AbstractHost) -> None:
    """Compare copies of base weights that lie beside an adapter with the base; over a swarm, warn of them.

    Raises what `check_copies` raises.
    """
    if isinstance(host, Host):
        check_copies(folder, host.module)
    elif has_copies(folder):
        said = f"{folder}: its copies of base weights are not compared with a base elsewhere"
        warnings.warn(said, BaseCopyWarning, stacklevel=2)


def _renamed(site: Site, module: nn.Module) -> Site:
    if not isinstance(module, PreTrainedModel):
        return site
    modules = dict(module.named_modules())
    table = [entry for entry in get_model_conversion_mapping(module) if isinstance(entry, WeightRenaming)]
    path = rename_source_key(f"{site.path}.weight", table, [])[0].removesuffix(".weight")
    prefix = f"{module.base_model_prefix}."
    for name in (path, prefix + path, path.removeprefix(prefix)):
        if name in modules:
            return site_at(name, site.in_features, site.out_features)
    return site
