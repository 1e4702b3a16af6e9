"""`weft route`: which adapters of a library a prompt gets, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from weft.cli.shared.flags import Flag
from weft.cli.shared.screen import print_json, print_rows
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest, resolve

if TYPE_CHECKING:
    from weft.host import Host
    from weft.route import Library
    from weft.route.load import Router
    from weft.route.weigh import AbstractWeigher
    from weft.types import Bank

WEIGHERS = ("nearest", "blend", "classifier")
GATES = ("arrow", "spectr")
_SHOWN = 5
"""Most adapters that a table names for one prompt."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LibraryFlags:
    """A library to choose from, prompt by prompt."""

    library: str | None = None
    """Folder of adapter folders; each prompt, or the text of --describe, chooses among them."""
    router: str = "nearest"
    """What chooses: nearest, blend, classifier, arrow, spectr, or the folder of a trained router."""
    threshold: float | None = None
    """A prompt nearer to no description gets no adapter; found for nearest and blend unless given."""
    labels: Path | None = None
    """JSON file from names of the library to descriptions; labels.json in it unless given."""
    strict: Flag = False
    """End at an adapter of the library that cannot be used; else it is named and left out."""
    router_top_k: int | None = None
    """How many adapters share a prompt, or a token (arrow, spectr); the router's own number unless given."""


def route(
    *prompts: str,
    library: str,
    router: str = "nearest",
    top_k: int | None = None,
    describe: str | None = None,
    threshold: float | None = None,
    labels: Path | None = None,
    strict: Flag = False,
    explain: Flag = False,
    json: Flag = False,
) -> None:
    """Say which adapters of a library a prompt gets, and with what weights.

    The distance is 1 less the cosine of the request and the adapter's description. "weft generate"
    with the same --library and --router answers under these adapters. For example:

        weft route "turn the word around" --library weft/letters-adapters --explain
        weft route "cab" --describe "sort the letters" --library weft/letters-adapters

    Args:
        prompts: What to route.
        library: Folder of adapter folders, or one that ships with Weft.
        router: nearest, blend or classifier over the descriptions in the adapters' cards, or the folder of a
            trained one.
        top_k: How many adapters share a prompt; the router's own number unless given.
        describe: Choose by this text instead of the prompt.
        threshold: A request whose cosine with every description is below this gets none of the adapters; for
            nearest and blend found from everyday requests unless given, and -1 always gives one.
        labels: A JSON file from adapter names to descriptions, which win over the cards'; labels.json in the
            library unless given.
        strict: End at an adapter that is damaged or of another base; else it is named and left out.
        explain: Add descriptions, and the runner-up.
        json: Print JSON.
    """
    from weft.route import load_library
    from weft.types import Bank

    if not prompts and describe is None:
        raise ConfigError("there is no prompt to route; give one, or --describe a task")
    check_router(router)
    if router in GATES:
        raise _decides_in_the_forward(router)
    found = load_library(library, labels=labels, strict=strict)
    opened = open_router(router, found, Bank.stack(found.adapters), top_k=top_k, threshold=threshold)
    asked = list(prompts) or [str(describe)]
    results = explained(opened, [describe or prompt for prompt in asked], found)
    if json:
        told = [{"prompt": prompt, **result} for prompt, result in zip(asked, results, strict=True)]
        print_json({"library": library, "router": router, "results": told})
        return
    rows: list[dict[str, object]] = []
    for prompt, result in zip(asked, results, strict=True):
        first = {"prompt": prompt} if len(asked) > 1 else {}
        rows += [first | row for row in _table(result, explain=explain)]
    print_rows(rows)


def check_router(name: str) -> None:
    """Raise UnknownNameError for what is neither the name of a router nor a folder."""
    known = (*WEIGHERS, *GATES)
    if name not in known and resolve(name) is None:
        raise UnknownNameError(
            f"no router {name!r}{nearest(name, known)}; there are {', '.join(known)}, or a router's folder"
        )


def open_router(
    name: str,
    library: Library,
    bank: Bank,
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    host: Host | None = None,
) -> Router:
    """The router of a name or folder for a library, whose adapters `bank` holds.

    Without a threshold, nearest and blend get one from everyday requests, a trained router keeps its own.

    Raises ConfigError for an adapter without description where the router needs one, or a `top_k` out of
    range; and what `load_router` raises.
    """
    if top_k is not None and not 1 <= top_k <= len(bank):
        raise ConfigError(f"top_k is {top_k}, a library of {len(bank)} allows 1 to {len(bank)}")
    if name in GATES:
        from weft.route import Arrow, Spectr
        from weft.types import Term

        gate = Arrow if name == "arrow" else Spectr
        return Term(bank, gate(bank, top_k=top_k or min(3, len(bank))))
    router = _weigher(name, library) if name in WEIGHERS else _loaded(name, bank, host)
    if top_k is not None:
        from weft.types import Term

        if isinstance(router, Term):
            raise ConfigError(f"the gate at {name} has its own number of adapters; leave the top k out")
        router.top_k = top_k
    return _with_threshold(router, name, bank, threshold)


def _with_threshold(router: Router, name: str, bank: Bank, threshold: float | None) -> Router:
    from weft.route import Blend, Nearest, calibrate

    if threshold is None and name not in WEIGHERS:
        return router
    if isinstance(router, Nearest | Blend):
        router.threshold = calibrate(router.cosines, bank.names) if threshold is None else threshold
    elif threshold is not None:
        raise ConfigError(f"{name} knows no distance to a task; --threshold is for nearest and blend")
    return router


def explained(router: Router, requests: Sequence[str], library: Library) -> list[dict[str, Any]]:
    """For each request its adapters, largest weight first, and the best of the others.

    Where all adapters share, the runner-up is the second.
    """
    from weft.route import Nearest
    from weft.route.library import texts_of
    from weft.types import Term

    if isinstance(router, Term):
        raise _decides_in_the_forward(type(router.gate).__name__)
    names = [adapter.name for adapter in library.adapters]
    weight_BK = router.weights(requests, names).tolist()
    full_BK = _unlimited(router, requests, names)
    index = Nearest(router.encoder)
    for name, label in library.labels.items():
        index.add(name, texts_of(label))
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


def _unlimited(router: AbstractWeigher, requests: Sequence[str], names: Sequence[str]) -> list[list[float]]:
    """The weights that all adapters would have: the router's own order of those that it leaves out."""
    from weft.route import Blend, Nearest

    kept, router.top_k = router.top_k, None
    bounded = router if isinstance(router, Nearest | Blend) else None
    threshold = bounded.threshold if bounded else None
    try:
        if bounded:
            bounded.threshold = None
        return router.weights(requests, names).tolist()
    finally:
        router.top_k = kept
        if bounded:
            bounded.threshold = threshold


def _weigher(name: str, library: Library) -> AbstractWeigher:
    from weft.embed import SentenceEncoder
    from weft.route import Blend, Classifier, Nearest
    from weft.route.library import texts_of

    labels = library.descriptions()
    encoder = SentenceEncoder()
    if name == "blend":
        return Blend(encoder, labels)
    if name == "classifier":
        return Classifier.fit(
            encoder, [(text, name) for name, label in labels.items() for text in texts_of(label)]
        )
    index = Nearest(encoder)
    for adapter, label in labels.items():
        index.add(adapter, texts_of(label))
    return index


def _loaded(folder: str, bank: Bank, host: Host | None) -> Router:
    from weft.route import load_router

    return load_router(folder, bank, host=host)


def _decides_in_the_forward(name: str) -> ConfigError:
    return ConfigError(
        f"{name} decides inside the forward, token by token; weft generate --router uses it, "
        "weft route shows routers that look at the prompt"
    )


def _table(result: dict[str, Any], *, explain: bool) -> list[dict[str, object]]:
    chosen, runner_up = result["adapters"], result["runner_up"]
    shown = [{"adapter": fact["adapter"], **_numbers(fact)} for fact in chosen[:_SHOWN]]
    rest = chosen[_SHOWN:]
    if not chosen:
        shown.append({"adapter": "none of them", "weight": "1.000", "distance": ""})
    if rest:
        weight = sum(fact["weight"] for fact in rest)
        shown.append({"adapter": f"{len(rest)} more", "weight": f"{weight:.3f}", "distance": ""})
    if not explain:
        return shown
    for row, fact in zip(shown, chosen or [{"description": None}], strict=False):
        row |= {"role": "chosen", "description": fact["description"]}
    if rest:
        shown[-1] |= {"role": "chosen", "description": ""}
    if runner_up is not None:
        told = {"role": "runner-up", "description": runner_up["description"]}
        if runner_up in chosen:
            shown[1] |= told
        else:
            shown.append({"adapter": runner_up["adapter"], **_numbers(runner_up), **told})
    return shown


def _numbers(fact: dict[str, Any]) -> dict[str, object]:
    distance = fact["distance"]
    return {"weight": f"{fact['weight']:.3f}", "distance": "" if distance is None else f"{distance:.3f}"}
