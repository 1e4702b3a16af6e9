"""`weft generate`: prompts in, text out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.cli.route import LibraryFlags, check_router, explained, open_router
from weft.cli.shared.flags import Flag
from weft.cli.shared.lines import stdin_lines
from weft.cli.shared.model import ModelFlags, SamplingFlags, load_model
from weft.cli.shared.screen import print_json
from weft.cli.shared.tree import TreeFlags, open_tree, plant
from weft.errors import ConfigError

if TYPE_CHECKING:
    from weft.host import Host
    from weft.route import Library
    from weft.route.load import Router
    from weft.types import Adapter, Bank, Mixture


def generate(
    *prompts: str,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    choice: LibraryFlags = LibraryFlags(),  # noqa: B008
    leaves: TreeFlags = TreeFlags(),  # noqa: B008
    sampling: SamplingFlags = SamplingFlags(),  # noqa: B008
    stream: Flag = False,
    json: Flag = False,
) -> None:
    """Answer prompts with a base model, under adapters or without.

    The chat template of the base is applied, where it has one. Answers come
    one per line, in the order of the prompts. With --library each prompt
    chooses its own adapters, with --tree each token its own leaf. For example:

        weft generate "cab" --adapter out/
        weft generate "cab" "dab" --describe "sort the letters"
        weft generate "cab" --adapter a/ --weight 0.7 --adapter b/ --weight 0.3
        weft generate "cab" --library weft/letters-adapters --describe "sort the letters"
        weft generate "cab" --tree runs/letters-tree/tree --leaf-devices cuda:0 cuda:1

    Args:
        prompts: What to answer; without any, every line of standard input is one.
        model: Which base, under which adapters.
        choice: A library to choose adapters from.
        leaves: A tree of adapters.
        sampling: How the answers are drawn.
        stream: Print an answer while it grows.
        json: Print JSON.
    """
    if stream and json:
        raise ConfigError("--stream prints text while it grows, --json one document; choose one")
    if choice.library is None and choice != LibraryFlags():
        raise ConfigError("--router chooses from a library; give --library too")
    opened = open_tree(leaves)
    if opened is not None:
        model = replace(model, base=model.base or opened[1])
    _refuse_stray(prompts, model)
    asked = list(prompts) or _lines()
    chosen = None
    if choice.library is None:
        host, adapters, mixture = load_model(model)
    else:
        requests = [model.describe or prompt for prompt in asked]
        host, adapters, mixture, chosen = _load_library(model, choice, requests)
    if opened is not None:
        planted = plant(opened[0], leaves.leaf_devices, host)
        mixture = planted if mixture is None else planted + mixture

    from weft.engine import Engine

    engine = Engine(host)
    chats = [_turns(model.system, prompt) for prompt in asked]
    options = sampling.options()
    if stream:
        for i, chat in enumerate(chats):
            options["seed"] = sampling.seed + i
            own = mixture if chosen is None else chosen.mixture(mixture, i)
            for piece in engine.stream(chat, mixture=own, **options):
                print(piece, end="", flush=True)
            print()
        return
    begun = time.perf_counter()
    said = engine.complete(chats, mixture=mixture if chosen is None else chosen.mixture(mixture), **options)
    if json:
        seconds = time.perf_counter() - begun
        results: list[dict[str, Any]] = [
            {"prompt": p, **answer._asdict()} for p, answer in zip(asked, said, strict=True)
        ]
        told: dict[str, Any] = {"base": host.name, "adapters": [a.name for a in adapters]}
        if leaves.tree is not None:
            told |= {"tree": leaves.tree, "leaf_devices": list(leaves.leaf_devices)}
        if chosen is not None:
            told |= {"library": choice.library, "router": choice.router}
            results = [{**result, "routed": own} for result, own in zip(results, chosen.told(), strict=True)]
        rate = sum(answer.completion_tokens for answer in said) / seconds
        print_json({**told, "tokens_per_second": round(rate, 1), "results": results})
        return
    for answer in said:
        print(answer.text)
    cut = sum(answer.finish_reason == "length" for answer in said)
    if cut:
        print(
            f"weft: {cut} of {len(said)} answers cut at --max-new-tokens {sampling.max_new_tokens}",
            file=sys.stderr,
        )


class _Chosen(NamedTuple):
    """A router, the library that it chooses from, and the requests, one per prompt."""

    router: Router
    library: Library
    bank: Bank
    requests: Sequence[str]

    def mixture(self, under: Mixture | None, prompt: int | None = None) -> Mixture:
        """What all prompts run under, or one of them: the adapters that are always on, and their choice."""
        from weft.route import routed

        requests = self.requests if prompt is None else [self.requests[prompt]]
        mixture = routed(self.router, requests, self.bank)
        return mixture if under is None else under + mixture

    def told(self) -> list[dict[str, float] | None]:
        """The weights of every prompt by adapter; None where a gate decides in the forward."""
        from weft.types import Term

        if isinstance(self.router, Term):
            return [None] * len(self.requests)
        return [
            {fact["adapter"]: fact["weight"] for fact in result["adapters"]}
            for result in explained(self.router, self.requests, self.library)
        ]


def _load_library(
    model: ModelFlags, choice: LibraryFlags, requests: Sequence[str]
) -> tuple[Host, list[Adapter], Mixture | None, _Chosen]:
    """The base that a library is for, the adapters that are always on, and what chooses from the library."""
    from weft.route import load_library

    check_router(choice.router)
    library = load_library(choice.library or "", labels=choice.labels, strict=choice.strict)
    base = model.base or library.base_model or None
    host, adapters, mixture = load_model(replace(model, base=base, describe=None), library.adapters)
    library = library.fitting(host, strict=choice.strict)
    bank = library.bank(host)
    router = open_router(
        choice.router, library, bank, top_k=choice.router_top_k, threshold=choice.threshold, host=host
    )
    return host, adapters, mixture, _Chosen(router, library, bank, requests)


def _refuse_stray(prompts: Sequence[str], model: ModelFlags) -> None:
    """Raise ConfigError for prompts that were meant for --adapter or --weight, which take one value each."""
    for prompt in prompts:
        if model.adapter and _is_adapter(prompt):
            raise ConfigError(f"{prompt} is an adapter, not a prompt; write --adapter before each of them")
        if model.weight and len(model.weight) < len(model.adapter) and _is_number(prompt):
            raise ConfigError(f"{prompt} is a number, not a prompt; write --weight before each of them")


def _is_adapter(path: str) -> bool:
    try:
        return (Path(path) / "adapter_config.json").is_file()
    except (OSError, ValueError):  # a prompt that can be no path
        return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines() -> list[str]:
    prompts = [] if sys.stdin.isatty() else list(stdin_lines())
    if not prompts:
        raise ConfigError("there is no prompt; give one, or write one per line to standard input")
    return prompts


def _turns(system: str | None, prompt: str) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]
