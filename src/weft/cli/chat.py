"""`weft chat`: question and answer, with adapters that come and go."""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from weft.cli.shared.flags import BaseMismatch
from weft.cli.shared.lines import stdin_lines
from weft.cli.shared.model import (
    ModelFlags,
    SamplingFlags,
    load_adapters,
    load_model,
    open_hypernetwork,
)
from weft.cli.shared.screen import spoken
from weft.errors import ConfigError, UnknownNameError, WeftError
from weft.files import nearest
from weft.plain import one_line, plain

if TYPE_CHECKING:
    from weft.engine import Engine
    from weft.hyper import HyperNetwork
    from weft.rows import AbstractHost, Share
    from weft.types import Adapter

_COMMANDS = {
    "/describe": "/describe TEXT  make an adapter from a description and use it",
    "/adapter": "/adapter DIR    use an adapter from a folder",
    "/base": "/base           no adapter, the base alone",
    "/help": "/help           these lines",
    "/quit": "/quit           leave, like the end of the input",
}


def chat(
    *,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    sampling: SamplingFlags = SamplingFlags(),  # noqa: B008
    history: bool = True,
) -> None:
    """Talk to a base model; its adapter can change between two lines.

    A line that begins with / is a command: /describe TEXT, /adapter DIR,
    /base, /help, /quit. Lines may also be piped in, and then only the answers
    are printed. For example:

        weft chat --describe "sort the letters"

    Args:
        model: Which base, and under which adapters to begin with.
        sampling: How the answers are drawn.
        history: Let the model read the earlier lines and answers too, the latest that fit its window; a new
            adapter starts afresh.
    """
    host, adapters, share = load_model(model)

    from weft.engine import Engine
    from weft.host import Host

    @cache
    def hypernetwork() -> "HyperNetwork":
        local = host if isinstance(host, Host) else None
        return open_hypernetwork(model.hypernetwork, host=local, on_mismatch=model.base_mismatch)

    engine = Engine(host)
    system = [] if model.system is None else [{"role": "system", "content": model.system}]
    turns = list(system)
    options = sampling.options(host)
    room = None if host.window is None else host.window - sampling.max_new_tokens
    _say(f"{host.name} {_under(adapters)}. A line that begins with / is a command; /help lists them.")
    for line in _lines():
        try:
            if line.startswith("/"):
                command, _, rest = line.partition(" ")
                if command == "/quit":
                    return
                changed = _change(command, rest.strip(), host, hypernetwork, model.base_mismatch)
                if changed is not None:
                    adapters, share = changed
                    turns = list(system)
                    _say(f"now {_under(adapters)}")
                continue
            asked = _fitting([*turns, {"role": "user", "content": line}], len(system), engine, room)
            answer = ""
            for piece in engine.stream(asked, share=share, **options):
                print(spoken(piece), end="", flush=True)
                answer += piece
            print()
            if history:
                turns = [*asked, {"role": "assistant", "content": answer}]
        except WeftError as error:
            # One bad line should not end the talk.
            print(f"weft: {one_line(str(error))}", file=sys.stderr)


def _fitting(
    turns: list[dict[str, str]], kept: int, engine: "Engine", room: int | None
) -> list[dict[str, str]]:
    """The turns without the oldest questions and answers, as few as leave room for an answer."""
    while room is not None and len(turns) > kept + 1 and len(engine.prompt_ids(turns)) > room:
        turns = [*turns[:kept], *turns[kept + 2 :]]
    return turns


def _change(
    command: str,
    rest: str,
    host: "AbstractHost",
    hypernetwork: "Callable[[], HyperNetwork]",
    on_mismatch: BaseMismatch,
) -> "tuple[list[Adapter], Share] | None":
    """Carry out a command; the adapters from now on, or None when they stay."""
    from weft.engine.request import under
    from weft.host import compare_copies

    match command:
        case "/base":
            adapters = []
        case "/describe":
            adapters = [hypernetwork().adapt(rest)]
        case "/adapter":
            if not rest:
                raise ConfigError("/adapter needs the folder of an adapter behind it")
            adapters = load_adapters([rest], [])[0]
            compare_copies(rest, host)
        case "/help":
            for text in _COMMANDS.values():
                print(text)
            return None
        case _:
            known = ", ".join(_COMMANDS)
            raise UnknownNameError(f"no command {command}{nearest(command, _COMMANDS)}; there are {known}")
    return adapters, under(host, adapters, on_mismatch=on_mismatch)


def _lines() -> Iterator[str]:
    """Lines that are not blank, from the terminal or a pipe."""
    if not sys.stdin.isatty():
        yield from stdin_lines()
        return
    import readline  # noqa: F401  arrow keys and history in input()

    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _say(text: str) -> None:
    """Tell the person at the terminal; a pipe gets answers only."""
    if sys.stdin.isatty():
        print(plain(text))


def _under(adapters: "list[Adapter]") -> str:
    return f"with {' + '.join(a.name for a in adapters)}" if adapters else "without an adapter"
