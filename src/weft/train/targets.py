"""Which sites of a base a training adapts, local or spread, and how a result names them."""

from collections.abc import Sequence

from weft.errors import ConfigError, UnknownNameError
from weft.host import Host, short_names
from weft.host.sites import ALL_LINEAR
from weft.rows import AbstractHost
from weft.types import Site


def sites_for(host: AbstractHost, wanted: str | Sequence[str]) -> Sequence[Site]:
    """What is trained: the sites of a local host, which was loaded with them, or some of a spread one.

    Raises ConfigError for a pattern over a spread host, UnknownNameError for a module that it lacks.
    """
    if isinstance(host, Host) or wanted == ALL_LINEAR:
        return host.sites
    if isinstance(wanted, str):
        raise ConfigError(f"over a spread host target_modules are all-linear or a list, got {wanted!r}")
    for name in wanted:
        if not any(f".{site.path}".endswith(f".{name}") for site in host.sites):
            endings = ", ".join(sorted({site.module for site in host.sites}))
            raise UnknownNameError(f"no site {name!r} in this base; sites end in {endings}")
    return [site for site in host.sites if any(f".{site.path}".endswith(f".{name}") for name in wanted)]


def names_of(host: AbstractHost, sites: Sequence[Site]) -> list[str]:
    """Target modules as PEFT names them."""
    if isinstance(host, Host):
        return short_names(sites, host.module)
    return sorted({site.module for site in sites})
