"""Any saved router for a library, and the mixture that a router or gate makes for a list of requests."""

from __future__ import annotations

import os
from collections.abc import Sequence

from weft.errors import UnknownNameError
from weft.host import Host
from weft.route.blend import Blend
from weft.route.classifier import Classifier
from weft.route.layers import LayerWeights
from weft.route.library import select
from weft.route.phatgoose import Phatgoose
from weft.route.router_folder import check_known, describe_router
from weft.route.smear import Smear
from weft.route.top1 import Top1
from weft.route.weigh import FREE, AbstractWeigher
from weft.route.xlora import XLora
from weft.saved import check_base
from weft.types import Bank, Cue, Mixture, Term

_GATES = {"layers": LayerWeights, "phatgoose": Phatgoose, "smear": Smear, "top1": Top1, "xlora": XLora}

Router = AbstractWeigher | Term
"""What chooses from a library: a weigher looks at requests, a term's gate at hidden states."""


def load_router(folder: str | os.PathLike[str], bank: Bank, *, host: Host | None = None) -> Router:
    """Read a router of any kind for a library.

    A gate comes as a term over its own adapters of the bank, in its own order; a weigher serves banks of any
    adapters that it knows. Raises MissingFileError, ConfigError, BaseMismatchError, UnknownNameError for an
    adapter that the library lacks or, for a weigher, one that it does not know, and WeightsError.

    Args:
        folder: What a router was saved to, or the name of one that ships with Weft.
        bank: The adapters of the library, under the names that the router knows.
        host: The base, for an encoder that reads its states.

    Example:
        >>> from weft.route import Smear, load_router
        >>> adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
        >>> bank = weft.Bank.stack(adapters, names=["reverse", "sort"])
        >>> Smear(count=2, dim=192).save_pretrained("router", bank)
        >>> load_router("router", bank).combine
        'average'
    """
    saved, found = describe_router(folder)
    check_base(saved, found, bank.base or (host.fingerprint if host else ""))
    if saved.kind in ("blend", "classifier"):
        unknown = [name for name in bank.names if name not in (FREE, *saved.names)]
        if unknown:
            raise UnknownNameError(
                f"the {saved.kind} at {found} does not know adapter {unknown[0]!r}; train it"
            )
        kind = Blend if saved.kind == "blend" else Classifier
        return kind.from_pretrained(found, host=host)
    check_known(saved, found, bank.names)
    bank = select(bank, saved.names)
    gate = _GATES[saved.kind].from_pretrained(found, bank)
    return Term(bank, gate, "average" if isinstance(gate, Smear) else "sum")


def routed(router: Router, requests: Sequence[Cue | str], bank: Bank) -> Mixture:
    """The mixture for a batch whose rows are these requests; a gate decides in the forward, for any rows."""
    return Mixture((router,)) if isinstance(router, Term) else router.route_all(requests, bank)
