"""A library that changes while it serves: places for adapters, taken and freed one by one.

A bank of fixed size whose tensors stay where they are. Coming and going writes one place of every site, so
its cost does not grow with the library, and generations under the other adapters go on undisturbed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.adapters import check_fits
from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.files import nearest
from weft.route.weigh import FREE
from weft.types import Adapter, Bank, Site


class LiveLibrary:
    """`capacity` places for adapters of rank `r` or less on `sites`; `bank` is what routers and gates take.

    A free place is an adapter of zeros with an empty name: routers leave it out, and gates see that it
    changes nothing. Raises ConfigError for a size below 1 or no sites.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        capacity: int,
        r: int,
        base: str = "",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if capacity < 1 or r < 1 or not sites:
            raise ConfigError(
                f"a library needs a place, a rank and a site or more, got {capacity}, {r} and {len(sites)}"
            )
        self._bank = Bank(
            names=(FREE,) * capacity,
            a={s: torch.zeros(capacity, r, s.in_features, dtype=dtype, device=device) for s in sites},
            b={s: torch.zeros(capacity, s.out_features, r, dtype=dtype, device=device) for s in sites},
            base=base,
        )

    @property
    def bank(self) -> Bank:
        """All places, in an order that never changes; after a change another value over the same tensors."""
        return self._bank

    def __len__(self) -> int:
        """How many adapters there are."""
        return sum(name != FREE for name in self._bank.names)

    @torch.no_grad()
    def add(self, adapter: Adapter) -> int:
        """Put an adapter into a free place under its own name, and return the place.

        Raises ConfigError for a name that is empty or taken, or no free place, ShapeError for a rank above
        the library's or NaN, and what `check_fits` raises.
        """
        names, name = self._bank.names, adapter.name
        if name == FREE:
            raise ConfigError("an adapter without a name cannot join a library; name it")
        if name in names:
            raise ConfigError(f"{name} is in the library; remove it first, or choose another name")
        if FREE not in names:
            raise ConfigError(
                f"all {len(names)} places are taken; remove an adapter, or make a larger library"
            )
        check_fits(adapter, self._bank.sites, self._bank.base)
        rank = next(iter(self._bank.a.values())).shape[1]
        if adapter.rank > rank:
            raise ShapeError(f"adapter {name} has rank {adapter.rank}, this library has room for {rank}")
        ready = {
            site: (a_RI.to(self._bank.a[site]), (b_OR * scaling).to(self._bank.b[site]))
            for site, (a_RI, b_OR, scaling) in adapter.factors.items()
        }
        for site, (a_RI, b_OR) in ready.items():  # a small number type may have made infinities
            if not (torch.isfinite(a_RI).all() and torch.isfinite(b_OR).all()):
                raise ShapeError(f"adapter {name} holds NaN or infinity at {site.path}")
        place = names.index(FREE)
        for site, (a_RI, b_OR) in ready.items():
            self._bank.a[site][place, : a_RI.shape[0]] = a_RI
            self._bank.b[site][place, :, : a_RI.shape[0]] = b_OR
        self._rename(place, name)
        return place

    @torch.no_grad()
    def remove(self, name: str) -> int:
        """Free the place of an adapter, and return it. Raises UnknownNameError."""
        if name == FREE or name not in self._bank.names:
            known = [other for other in self._bank.names if other != FREE]
            raise UnknownNameError(f"no adapter {name!r} in the library{nearest(name, known)}")
        place = self._bank.names.index(name)
        for site in self._bank.sites:
            self._bank.a[site][place] = 0
            self._bank.b[site][place] = 0
        self._rename(place, FREE)
        return place

    def _rename(self, place: int, name: str) -> None:
        names = self._bank.names
        self._bank = Bank(
            (*names[:place], name, *names[place + 1 :]), self._bank.a, self._bank.b, self._bank.base
        )
