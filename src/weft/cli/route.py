"""`weft route`: which adapters of a library a prompt gets, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from weft.cli.shared.flags import Flag, Json
from weft.cli.shared.screen import print_json, print_rows
from weft.errors import ConfigError

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
    """A prompt nearer to no description gets no adapter; found from everyday requests for nearest,
    blend and classifier unless given."""
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
    json: Json = False,
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
            nearest, blend and classifier found from everyday requests unless given, and -1 always gives one.
        labels: A JSON file from adapter names to descriptions, which win over the cards'; labels.json in the
            library unless given.
        strict: End at an adapter that is damaged or of another base; else it is named and left out.
        explain: Add descriptions, and the runner-up.
    """
    from weft.route import load_library
    from weft.route.named import GATES, check_router, decides_in_the_forward, explained, named_router
    from weft.types import Bank

    if not prompts and describe is None:
        raise ConfigError("there is no prompt to route; give one, or --describe a task")
    check_router(router)
    if router in GATES:
        raise decides_in_the_forward(router)
    found = load_library(library, labels=labels, strict=strict)
    opened = named_router(router, found, Bank.stack(found.adapters), top_k=top_k, threshold=threshold)
    asked = list(prompts) or [str(describe)]
    results = explained(opened, [describe or prompt for prompt in asked], found)
    if json:
        listed = [{"prompt": prompt, **result} for prompt, result in zip(asked, results, strict=True)]
        print_json({"library": library, "router": router, "results": listed})
        return
    rows: list[dict[str, object]] = []
    for prompt, result in zip(asked, results, strict=True):
        first = {"prompt": prompt} if len(asked) > 1 else {}
        rows += [first | row for row in _table(result, explain=explain)]
    print_rows(rows)


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
        role = {"role": "runner-up", "description": runner_up["description"]}
        if runner_up in chosen:
            shown[1] |= role
        else:
            shown.append({"adapter": runner_up["adapter"], **_numbers(runner_up), **role})
    return shown


def _numbers(fact: dict[str, Any]) -> dict[str, object]:
    distance = fact["distance"]
    return {"weight": f"{fact['weight']:.3f}", "distance": "" if distance is None else f"{distance:.3f}"}
