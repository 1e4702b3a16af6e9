"""Routers by the names that people type, and what they say of a request: which adapters, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.embed import SentenceEncoder
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest, resolve
from weft.host import Host
from weft.route.arrow import Arrow
from weft.route.blend import Blend
from weft.route.classifier import Classifier
from weft.route.everyday import calibrate
from weft.route.library import Label, Library, texts_of
from weft.route.load import Router, load_router
from weft.route.nearest import Nearest
from weft.route.spectr import Spectr
from weft.route.weigh import AbstractWeigher
from weft.types import AbstractEncoder, Bank, Term

WEIGHERS = ("nearest", "blend", "classifier")
GATES = ("arrow", "spectr")


def check_router(name: str) -> None:
    """Raise UnknownNameError for what is neither the name of a router nor a folder."""
    known = (*WEIGHERS, *GATES)
    if name not in known and resolve(name) is None:
        raise UnknownNameError(
            f"no router {name!r}{nearest(name, known)}; there are {', '.join(known)}, or a router's folder"
        )


def named_router(
    name: str,
    library: Library,
    bank: Bank,
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    host: Host | None = None,
) -> Router:
    """The router of a name or folder for a library, whose adapters `bank` holds.

    Without a threshold, nearest, blend and classifier get one from everyday requests; a trained router keeps
    its own.

    Raises ConfigError for an adapter without description where the router needs one, or a `top_k` out of
    range; and what `load_router` raises.
    """
    if top_k is not None and not 1 <= top_k <= len(bank):
        raise ConfigError(f"top_k is {top_k}, a library of {len(bank)} allows 1 to {len(bank)}")
    if name in GATES:
        gate = Arrow if name == "arrow" else Spectr
        return Term(bank, gate(bank, top_k=top_k or min(3, len(bank))))
    router = _weigher(name, library) if name in WEIGHERS else load_router(name, bank, host=host)
    if top_k is not None:
        if isinstance(router, Term):
            raise ConfigError(f"the gate at {name} has its own number of adapters; leave the top k out")
        router.top_k = top_k
    return _with_threshold(router, name, bank, threshold)


def explained(router: Router, requests: Sequence[str], library: Library) -> list[dict[str, Any]]:
    """For each request its adapters, largest weight first, and the best of the others.

    Where all adapters share, the runner-up is the second. Raises ConfigError for a gate, which decides in
    the forward.
    """
    if isinstance(router, Term):
        raise decides_in_the_forward(type(router.gate).__name__)
    names = [adapter.name for adapter in library.adapters]
    weight_BK = router.weights(requests, names).tolist()
    full_BK = _unlimited(router, requests, names)
    index = _index(router.encoder, library.labels)
    near_BK = index.cosines(requests, index.names).tolist() if index.names else [[]] * len(requests)
    results = []
    for weight_K, full_K, near_K in zip(weight_BK, full_BK, near_BK, strict=True):
        cosine = dict(zip(index.names, near_K, strict=True))
        order = sorted(range(len(names)), key=lambda k: (-weight_K[k], -full_K[k]))
        facts = [
            {
                "adapter": names[k],
                "weight": weight_K[k],
                "distance": 1 - cosine[names[k]] if names[k] in cosine else None,
                "description": library.labels.get(names[k]),
            }
            for k in order
        ]
        chosen = [fact for fact in facts if fact["weight"] > 0]
        others = facts[len(chosen) :] or facts[1:]  # with none chosen, the nearest of all
        results.append({"adapters": chosen, "runner_up": others[0] if others else None})
    return results


def decides_in_the_forward(name: str) -> ConfigError:
    """The error that a gate says nothing of a prompt before the forward."""
    return ConfigError(
        f"{name} decides inside the forward, token by token; weft generate --router uses it, "
        "weft route shows routers that look at the prompt"
    )


def _with_threshold(router: Router, name: str, bank: Bank, threshold: float | None) -> Router:
    if threshold is None and name not in WEIGHERS:
        return router
    if isinstance(router, AbstractWeigher):
        router.threshold = calibrate(router.cosines, bank.names) if threshold is None else threshold
    elif threshold is not None:
        raise ConfigError(
            f"{name} knows no distance to a task; --threshold is for nearest, blend and classifier"
        )
    return router


def _unlimited(router: AbstractWeigher, requests: Sequence[str], names: Sequence[str]) -> list[list[float]]:
    """The weights that all adapters would have: the router's own order of those that it leaves out."""
    kept = router.top_k, router.threshold
    router.top_k = router.threshold = None
    try:
        return router.weights(requests, names).tolist()
    finally:
        router.top_k, router.threshold = kept


def _weigher(name: str, library: Library) -> AbstractWeigher:
    labels = library.descriptions()
    encoder = SentenceEncoder()
    if name == "blend":
        return Blend(encoder, labels)
    if name == "classifier":
        return Classifier.fit(
            encoder, [(text, name) for name, label in labels.items() for text in texts_of(label)]
        )
    return _index(encoder, labels)


def _index(encoder: AbstractEncoder, labels: Mapping[str, Label]) -> Nearest:
    index = Nearest(encoder)
    for name, label in labels.items():
        index.add(name, texts_of(label))
    return index
