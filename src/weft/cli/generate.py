"""`weft generate`: prompts in, text out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from weft.cli.route import LibraryFlags
from weft.cli.shared.controlled import controlled, load_controlled
from weft.cli.shared.flags import Flag, Json
from weft.cli.shared.lines import Turns, read_prompts, stdin_lines
from weft.cli.shared.model import ModelFlags, SamplingFlags, load_model
from weft.cli.shared.screen import print_json, spoken
from weft.cli.shared.traced import print_trace
from weft.cli.shared.tree import TreeFlags, open_tree
from weft.errors import ConfigError
from weft.files import found_near, resolve

if TYPE_CHECKING:
    from weft.engine.request import Chooser
    from weft.rows import AbstractHost, Share
    from weft.types import Adapter


def generate(
    *prompts: str,
    file: Path | None = None,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    choice: LibraryFlags = LibraryFlags(),  # noqa: B008
    leaves: TreeFlags = TreeFlags(),  # noqa: B008
    sampling: SamplingFlags = SamplingFlags(),  # noqa: B008
    shift: str | None = None,
    context: str | None = None,
    window: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    raw: Flag = False,
    journal: Path | None = None,
    trace: Flag = False,
    trace_json: Flag = False,
    stream: Flag = False,
    json: Json = False,
) -> None:
    """Answer prompts with a base model, under adapters or without.

    The chat template of the base is applied, where it has one. Answers come
    one per line, in the order of the prompts. With --library each prompt
    chooses its own adapters, with --tree each token its own leaf. For example:

        weft generate "cab" --adapter out/
        weft generate "cab" "dab" --describe "sort the letters"
        weft generate --file questions.txt --adapter out/ --json
        weft generate "cab" --adapter a/ --weight 0.7 --adapter b/ --weight 0.3
        weft generate "cab" --library weft/letters-adapters --describe "sort the letters"
        weft generate $'3Acab\\n3-3' --shift weft/letters-shift --trace
        weft generate "cab" --context weft/letters-words --window 32 --trace
        weft generate "cab" --tree runs/letters-tree/tree --leaf-devices cuda:0 cuda:1

    Args:
        prompts: What to answer; without any, every line of standard input is one.
        file: File of prompts: one a line, or JSON Lines with a "prompt" or the "messages" of a chat in each.
        model: Which base, under which adapters.
        choice: A library to choose adapters from.
        leaves: A tree of adapters.
        sampling: How the answers are drawn.
        shift: A trained shift: the model changes its adapters while it answers.
        context: A context network: what leaves the window is written into an adapter, so a text has no end.
        window: With --context, tokens that a row keeps at hand; four chunks of the network unless given.
        raw: Go on with each prompt as a text, without the chat template of the base.
        journal: With --host, a file; a run that was killed and is started again with it goes on from there.
        trace: Show every token in the colour of what acted on it, and in the margin what happened.
        trace_json: Print the same as JSON.
        stream: Print an answer while it grows.
    """
    if stream and json:
        raise ConfigError("--stream prints text while it grows, --json one document; choose one")
    if raw and model.system is not None:
        raise ConfigError("--raw goes on with a text as it stands; --system is of a chat, leave one out")
    if choice.library is None and choice != LibraryFlags():
        raise ConfigError("--router chooses from a library; give --library too")
    opened = open_tree(leaves)
    if opened is not None:
        model = replace(model, base=model.base or opened[1])
    _refuse_stray(prompts, model)
    if prompts and file is not None:
        raise ConfigError("give prompts or --file, not both")
    asked: list[str | Turns] = [*prompts] if file is None else read_prompts(file)
    asked = asked or _lines()
    for number, prompt in enumerate(asked, 1):
        if not _question(prompt).strip():
            raise ConfigError(f"prompt {number} of {len(asked)} is empty; write what is to be answered")
    if raw and not all(isinstance(prompt, str) for prompt in asked):
        raise ConfigError("--raw goes on with texts; the file holds a chat, give its text as a prompt")
    chooser = None
    controller = None
    if (trace and trace_json) or ((trace or trace_json) and (stream or json)):
        raise ConfigError(
            "--trace, --trace-json, --stream and --json each print in their own way; choose one"
        )
    if window is not None and context is None:
        raise ConfigError("--window is of a context network; give --context too")
    if controlled(model, shift, context):
        if choice.library is not None or opened is not None or journal is not None:
            raise ConfigError("what changes its adapters by itself takes no --library, --tree or --journal")
        host, adapters, share, controller = load_controlled(model, shift, context, window)
    elif choice.library is None:
        host, adapters, share = load_model(model, journal=journal)
    else:
        host, adapters, share, chooser = _load_library(model, choice, journal)

    from weft.engine import Engine
    from weft.engine.request import planted
    from weft.engine.trace import trace_values

    if opened is not None:
        share = planted(opened[0], host, leaves.leaf_devices) + share
    requests = [model.describe or _question(prompt) for prompt in asked]
    shares = [share if chooser is None else share + chooser.share(request) for request in requests]
    engine = Engine(host)
    turns = [_turns(model.system, prompt) for prompt in asked]
    chats = [_question(prompt) for prompt in asked] if raw else turns
    options = {**sampling.options(host), "raw": raw}
    if stream:
        for i, chat in enumerate(chats):
            options["seed"] = sampling.seed + i
            for piece in engine.stream(chat, share=shares[i], controller=controller, **options):
                print(spoken(piece), end="", flush=True)
            print()
        return
    if trace or trace_json:
        traced = engine.trace(chats, shares=shares, controller=controller, **options)
        if trace_json:
            values = [trace_values(engine.tokenizer, one) for one in traced]
            pairs = zip(asked, values, strict=True)
            print_json({"base": host.name, "results": [{"prompt": p, "trace": v} for p, v in pairs]})
            return
        for prompt, one in zip(asked, traced, strict=True):
            print_trace(engine.tokenizer, _question(prompt), one)
        return
    begun = time.perf_counter()
    said = engine.complete(chats, shares=shares, controller=controller, **options)
    if json:
        seconds = time.perf_counter() - begun
        results: list[dict[str, Any]] = [
            {"prompt": p, **answer._asdict()} for p, answer in zip(asked, said, strict=True)
        ]
        facts: dict[str, Any] = {"base": host.name, "adapters": [a.name for a in adapters]}
        if leaves.tree is not None:
            facts |= {"tree": leaves.tree, "leaf_devices": list(leaves.leaf_devices)}
        if chooser is not None:
            facts |= {"library": choice.library, "router": choice.router}
            routed = chooser.weights(requests)
            results = [{**result, "routed": own} for result, own in zip(results, routed, strict=True)]
        rate = sum(answer.completion_tokens for answer in said) / seconds
        print_json({**facts, "tokens_per_second": round(rate, 1), "results": results})
        return
    for answer in said:
        print(spoken(answer.text.strip()))  # some templates put spaces around an answer
    cut = sum(answer.finish_reason == "length" for answer in said)
    if cut:
        print(
            f"weft: {cut} of {len(said)} answers cut at --max-new-tokens {sampling.max_new_tokens}",
            file=sys.stderr,
        )


def _load_library(
    model: ModelFlags, choice: LibraryFlags, journal: Path | None
) -> tuple[AbstractHost, list[Adapter], Share, Chooser]:
    """The base that a library is for, the adapters that are always on, and what chooses from the library."""
    from weft.engine.request import Chooser
    from weft.route import load_library
    from weft.route.named import check_router

    check_router(choice.router)
    library = load_library(choice.library or "", labels=choice.labels, strict=choice.strict)
    folder = resolve(choice.library or "")
    base = model.base or (found_near(library.base_model, folder) if folder else library.base_model) or None
    host, adapters, share = load_model(
        replace(model, base=base, describe=None), library.adapters, journal=journal
    )
    chooser = Chooser.over(
        host,
        library,
        choice.router,
        top_k=choice.router_top_k,
        threshold=choice.threshold,
        strict=choice.strict,
    )
    return host, adapters, share, chooser


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


def _lines() -> list[str | Turns]:
    prompts: list[str | Turns] = [] if sys.stdin.isatty() else list(stdin_lines())
    if not prompts:
        raise ConfigError("there is no prompt; give one, or write one per line to standard input")
    return prompts


def _turns(system: str | None, prompt: str | Turns) -> Turns:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system is None or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": system}, *turns]


def _question(prompt: str | Turns) -> str:
    """What a prompt asks last."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
