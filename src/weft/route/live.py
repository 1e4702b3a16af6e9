"""A library that changes while it serves: a pool whose adapters go by their names, and leave when told.

Coming and going writes one place of every site, so its cost does not grow with the library, and generations
under the other adapters go on undisturbed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.files import nearest
from weft.host import Pool
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
        self._pool = Pool(
            sites,
            slots=capacity,
            r=r,
            base=base,
            dtype=dtype,
            device=device,
            key=lambda adapter: adapter.name,
        )

    @property
    def bank(self) -> Bank:
        """All places, in an order that never changes; after a change another value over the same tensors."""
        return self._pool.bank

    def __len__(self) -> int:
        """How many adapters there are."""
        return len(self._pool)

    def add(self, adapter: Adapter) -> int:
        """Put an adapter into a free place under its own name, and return the place.

        Raises ConfigError for a name that is empty or taken, or no free place, ShapeError for a rank above
        the library's or NaN, and what `check_fits` raises.
        """
        name, places = adapter.name, self._pool.slots
        if name == FREE:
            raise ConfigError("an adapter without a name cannot join a library; name it")
        if adapter in self._pool:
            raise ConfigError(f"{name} is in the library; remove it first, or choose another name")
        if len(self._pool) == places:
            raise ConfigError(f"all {places} places are taken; remove an adapter, or make a larger library")
        if adapter.rank > self._pool.r:
            raise ShapeError(
                f"adapter {name} has rank {adapter.rank}, this library has room for {self._pool.r}"
            )
        return self._pool.put(adapter)

    def remove(self, name: str) -> int:
        """Free the place of an adapter, and return it. Raises UnknownNameError."""
        known = [other for other in self.bank.names if other != FREE]
        if name not in known:
            raise UnknownNameError(f"no adapter {name!r} in the library{nearest(name, known)}")
        return self._pool.free(name)
