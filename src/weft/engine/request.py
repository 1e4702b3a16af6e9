"""From what a user asks for to what acts on a row: the one way of the command line, the server and Python.

Adapters go to the row by themselves, so that the host keeps them in its pool: one at weight 1 takes the path
of a single adapter, and all keep the numbers that they were stored in. Trees and gates bring their banks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from weft.adapters import OnMismatch, check_fits
from weft.adapters.card import base_model
from weft.engine.batch import shares_of
from weft.errors import ShapeError
from weft.files import base_named_in, resolve
from weft.host import Host, fitted
from weft.route import Library, Tree, place_leaves
from weft.route.load import Router
from weft.route.named import check_router, explained, named_router
from weft.rows import AbstractHost, Share
from weft.types import Adapter, Bank, Mixture, Term


def named_base(adapters: Sequence[Adapter], hypernetwork: str | None = None) -> str | None:
    """The base that adapters name, or a hypernetwork's folder does; None where neither says it."""
    for adapter in adapters:
        if base_model(adapter):
            return base_model(adapter)
    folder = resolve(hypernetwork) if hypernetwork is not None else None
    return None if folder is None else base_named_in(folder)


def under(
    host: AbstractHost,
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    *,
    on_mismatch: OnMismatch = "refuse",
) -> Share:
    """A row under the weighted sum of adapters, each 1 unless told, checked against the base.

    No adapters are the base alone, and one of weight 0 is left out. Raises ShapeError for other weights, and
    what `fitted` raises.

    Example:
        >>> from weft.engine.request import under
        >>> host = weft.Host.from_pretrained("weft/letters")
        >>> share = under(host, [weft.load("weft/letters-adapters/reverse")], [0.5])
        >>> [(a.name, weight) for a, weight in share.adapters]
        [('reverse', 0.5)]
    """
    weights = [1.0] * len(adapters) if weights is None else [float(weight) for weight in weights]
    if len(weights) != len(adapters):
        raise ShapeError(f"{len(weights)} weights for {len(adapters)} adapters")
    pairs = zip([fitted(adapter, host, on_mismatch) for adapter in adapters], weights, strict=True)
    return Share(tuple((adapter, weight) for adapter, weight in pairs if weight))


def planted(tree: Tree, host: AbstractHost, leaf_devices: Sequence[str] = ()) -> Share:
    """A row under a tree on its base, its leaves on the base's device or spread over others.

    Raises what `check_fits` and `place_leaves` raise.
    """
    check_fits(tree.leaves[0], host.sites, host.fingerprint)
    tree = replace(tree, gate=tree.gate.to(host.device))
    if leaf_devices:
        return mixed(place_leaves(tree, leaf_devices))
    shared = tree.shared and tree.shared.to(host.device)
    return mixed(replace(tree, leaves=tree.leaves.to(host.device), shared=shared).mixture)


def mixed(mixture: Mixture) -> Share:
    """A row under a mixture. Raises ShapeError for one that is made for more rows."""
    return shares_of(mixture, 1)[0]


@dataclass(frozen=True, eq=False)
class Chooser:
    """A library on a host, and the router that chooses from it, request by request."""

    router: Router
    library: Library
    bank: Bank

    @classmethod
    def over(
        cls,
        host: AbstractHost,
        library: Library,
        router: str = "nearest",
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        strict: bool = False,
    ) -> Chooser:
        """The router of a name or folder over the adapters of a library that fit a host.

        The others are named in a warning unless `strict`. Raises what `check_router`, `Library.fitting` and
        `named_router` raise.
        """
        check_router(router)
        library = library.fitting(host, strict=strict)
        bank = library.bank(host)
        local = host if isinstance(host, Host) else None  # for encoders that read its states
        named = named_router(router, library, bank, top_k=top_k, threshold=threshold, host=local)
        return cls(named, library, bank)

    @torch.no_grad()
    def share(self, request: str) -> Share:
        """What acts on the row of one request: the adapters of its choice, or a gate over all of them.

        Raises what the router raises.
        """
        if isinstance(self.router, Term):
            return Share(terms=(self.router,))
        names = [adapter.name for adapter in self.library.adapters]
        weight_K = self.router.weights([request], names)[0].tolist()
        pairs = zip(self.library.adapters, weight_K, strict=True)
        return Share(tuple((adapter, weight) for adapter, weight in pairs if weight))

    def weights(self, requests: Sequence[str]) -> list[dict[str, float] | None]:
        """Every request's weights by adapter, largest first; None where a gate decides in the forward."""
        if isinstance(self.router, Term):
            return [None] * len(requests)
        return [
            {fact["adapter"]: fact["weight"] for fact in result["adapters"]}
            for result in explained(self.router, requests, self.library)
        ]
