"""Adapters that are ready to act: a fixed number of places on the device, taken and freed by content.

Trained, loaded, generated and changed adapters all act from a place. The tensors stay where they are: coming
and going writes one place of every site, so its cost does not grow with the library, and rows under the other
adapters go on undisturbed. Scaling goes into B when an adapter is put in, once: the adapter itself is a value
and never changes, so putting it in twice, or again after it was evicted, gives the same numbers.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from weft.adapters import check_fits
from weft.errors import ConfigError, PoolFullError, ShapeError
from weft.types import Adapter, Bank, Site


class Pool:
    """`slots` places for adapters of rank `r` or less on `sites`, the least recently used one evicted first.

    `grow` lets a pool without a free place, or asked for a larger rank, become larger in place of refusing.
    `key` says which adapters are the same one: those of equal content unless given. Raises ConfigError for a
    size below 1 or no sites.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        slots: int,
        r: int,
        base: str = "",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        grow: bool = False,
        key: Callable[[Adapter], str] | None = None,
    ) -> None:
        if slots < 1 or r < 1 or not sites:
            raise ConfigError(f"a pool needs a slot, a rank and a site, got {slots}, {r} and {len(sites)}")
        self.sites = tuple(sites)
        self.base = base
        self.grow = grow
        self._options = {"dtype": dtype, "device": torch.device(device)}
        self._key = key or content
        self._keys: WeakKeyDictionary[Adapter, str] = WeakKeyDictionary()
        self._slots: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._pins: dict[str, int] = {}
        self.version = 0
        """Rises when a place gets another adapter."""
        self._allocate(slots, r)

    @property
    def bank(self) -> Bank:
        """All places in their order; the tensors are the pool's own. A free place is named ""."""
        return self._bank

    @property
    def slots(self) -> int:
        """How many places there are."""
        return len(self._bank)

    @property
    def r(self) -> int:
        """The rank that a place has room for."""
        return self._r

    def __len__(self) -> int:
        """How many adapters there are."""
        return len(self._slots)

    def __contains__(self, adapter: Adapter) -> bool:
        """Whether an adapter of this content has a place."""
        return self.key(adapter) in self._slots

    def key(self, adapter: Adapter) -> str:
        """What an adapter is known by: SHA-256 of what it does, not of its name, unless `key` is given."""
        if adapter not in self._keys:
            self._keys[adapter] = self._key(adapter)
        return self._keys[adapter]

    def put(self, adapter: Adapter, slot: int | None = None) -> int:
        """The place of an adapter, which takes one where it has none: the first that is free, or `slot`.

        Raises PoolFullError where every place is pinned, ShapeError for a rank above the pool's or for
        factors whose scaled product is not finite, and what `check_fits` raises.
        """
        key = self.key(adapter)
        if key in self._slots:
            self._slots.move_to_end(key)
            return self._slots[key]
        check_fits(adapter, self.sites, self.base)
        if adapter.rank > self._r:
            if not self.grow:
                raise ShapeError(
                    f"adapter {adapter.name} has rank {adapter.rank}, this pool has room for {self._r}"
                )
            self._resize(self.slots, adapter.rank)
        ready = _ready(adapter, self._bank)
        slot = self._free() if slot is None else self._at(slot)
        self._write(slot, ready)
        self.version += 1
        self._slots[key] = slot
        self._rename(slot, adapter.name)
        return slot

    def pin(self, adapter: Adapter, slot: int | None = None) -> int:
        """Put an adapter in and keep it there until it is unpinned as often. Raises what `put` raises."""
        slot = self.put(adapter, slot)
        key = self.key(adapter)
        self._pins[key] = self._pins.get(key, 0) + 1
        return slot

    def unpin(self, adapter: Adapter) -> None:
        """Take back one `pin`."""
        key = self.key(adapter)
        self._pins[key] -= 1
        if not self._pins[key]:
            del self._pins[key]

    def pin_all(self, adapters: Sequence[Adapter]) -> list[int]:
        """Pin several adapters, or none of them. Raises what `put` raises."""
        slots: list[int] = []
        try:
            for adapter in adapters:
                slots.append(self.pin(adapter))
        except BaseException:  # an interrupt or a full device too: nobody would unpin them
            self.unpin_all(adapters[: len(slots)])
            raise
        return slots

    def unpin_all(self, adapters: Sequence[Adapter]) -> None:
        """Take back one `pin_all`."""
        for adapter in adapters:
            self.unpin(adapter)

    def put_all(self, adapters: Sequence[Adapter]) -> list[int]:
        """The places of several adapters, none of which pushes another one out. Raises what `put` raises."""
        slots = self.pin_all(adapters)
        self.unpin_all(adapters)
        return slots

    def pinned(self, adapter: Adapter) -> bool:
        """Whether an adapter is kept in its place."""
        return self.key(adapter) in self._pins

    def evict(self, adapter: Adapter) -> None:
        """Free the place of an adapter. Raises ConfigError while it is pinned."""
        key = self.key(adapter)
        if self.pinned(adapter):
            raise ConfigError(f"adapter {adapter.name} acts on a row; it can leave when the row has ended")
        if key in self._slots:
            self.free(key)

    def free(self, key: str) -> int:
        """Take the adapter of a key out, whoever it acts on; its place, which holds zeros from then on."""
        slot = self._drop(key)
        self._write(slot, {})
        self.version += 1
        return slot

    def front(self, count: int, sites: Sequence[Site]) -> Bank:
        """The first places, at some sites: a view."""
        bank = self._bank
        a = {site: bank.a[site][:count] for site in sites}
        return Bank(bank.names[:count], a, {site: bank.b[site][:count] for site in sites}, self.base)

    def select(self, slots: Sequence[int], sites: Sequence[Site]) -> Bank:
        """Some places, at some sites: a copy, in the layout of the pool."""
        bank = self._bank
        index_K = torch.tensor(slots, device=self._options["device"])
        return Bank(
            tuple(bank.names[slot] for slot in slots),
            {site: bank.a[site].index_select(0, index_K) for site in sites},
            {site: bank.b[site].mT.index_select(0, index_K).mT for site in sites},
            self.base,
        )

    @torch.inference_mode(False)  # else the first use inside one makes places that nothing outside may write
    def _allocate(self, slots: int, r: int) -> None:
        # B lies as [K, R, O], so that the adapters side by side are a view: [K * R, O].
        self._bank = Bank(
            ("",) * slots,
            {s: torch.zeros(slots, r, s.in_features, **self._options) for s in self.sites},
            {s: torch.zeros(slots, r, s.out_features, **self._options).mT for s in self.sites},
            self.base,
        )
        self._r = r

    def _resize(self, slots: int, r: int) -> None:
        old, old_r = self._bank, self._r
        self._allocate(slots, r)
        for site in self.sites:
            self._bank.a[site][: len(old), :old_r] = old.a[site]
            self._bank.b[site][: len(old), :, :old_r] = old.b[site]
        self._bank = Bank((*old.names, *self._bank.names[len(old) :]), self._bank.a, self._bank.b, self.base)

    def _free(self) -> int:
        taken = set(self._slots.values())
        free = next((slot for slot in range(self.slots) if slot not in taken), None)
        if free is not None:
            return free
        if self.grow:
            self._resize(2 * self.slots, self._r)
            return len(taken)
        oldest = next((key for key in self._slots if key not in self._pins), None)
        if oldest is None:
            raise PoolFullError(f"all {self.slots} adapter slots act on rows; wait, or give the pool more")
        return self._drop(oldest)

    def _at(self, slot: int) -> int:
        """A place that is asked for by its number, made where the pool may grow."""
        if slot in self._slots.values() or (slot >= self.slots and not self.grow):
            raise PoolFullError(f"slot {slot} of {self.slots} is not free")
        while slot >= self.slots:
            self._resize(2 * self.slots, self._r)
        return slot

    def _drop(self, key: str) -> int:
        slot = self._slots.pop(key)
        self._rename(slot, "")
        return slot

    def _rename(self, slot: int, name: str) -> None:
        names = self._bank.names
        self._bank = Bank((*names[:slot], name, *names[slot + 1 :]), self._bank.a, self._bank.b, self.base)

    def _write(self, slot: int, ready: dict[Site, tuple[Tensor, Tensor]]) -> None:
        for site in self.sites:
            a_RI, b_OR = self._bank.a[site][slot], self._bank.b[site][slot]
            a_RI.zero_()
            b_OR.zero_()
            if site in ready:
                rank = ready[site][0].shape[0]
                a_RI[:rank] = ready[site][0]
                b_OR[:, :rank] = ready[site][1]


def content(adapter: Adapter) -> str:
    """SHA-256 of an adapter's sites, factors and scalings."""
    digest = hashlib.sha256()
    for site in adapter.sites:
        a_RI, b_OR, scaling = adapter.factors[site]
        digest.update(f"{site.path} {tuple(a_RI.shape)} {b_OR.shape[0]} {a_RI.dtype} {scaling!r}\n".encode())
        for tensor in (a_RI, b_OR):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _ready(adapter: Adapter, bank: Bank) -> dict[Site, tuple[Tensor, Tensor]]:
    """Its factors as the pool keeps them. An adapter that could turn others' zeros into NaN is refused."""
    sites = {site.path: site for site in bank.sites}
    ready = {}
    for site, (a_RI, b_OR, scaling) in adapter.factors.items():
        a_RI = a_RI.detach().to(bank.a[sites[site.path]])
        b_OR = b_OR.detach().to(bank.b[sites[site.path]]) * scaling
        if not (torch.isfinite(a_RI).all() and torch.isfinite(b_OR).all()):
            raise ShapeError(f"adapter {adapter.name} holds NaN or infinity at {site.path}, scaling included")
        ready[sites[site.path]] = a_RI, b_OR
    return ready
