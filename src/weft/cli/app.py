"""The program `weft`: its verbs, and how it ends."""

import codecs
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from weft import __version__
from weft.errors import WeftError
from weft.plain import as_escapes, one_line
from weft.reading import check_text, shown_path

if TYPE_CHECKING:
    from cyclopts import App

# In the order of the help page. Paths, not functions: a verb is imported when it is called.
VERBS = {
    "demo": "weft.cli.demo:demo",
    "adapt": "weft.cli.adapt:adapt",
    "compile": "weft.cli.compile:compile_function",
    "generate": "weft.cli.generate:generate",
    "chat": "weft.cli.chat:chat",
    "serve": "weft.cli.serve:serve",
    "swarm": "weft.cli.swarm:swarm",
    "route": "weft.cli.route:route",
    "merge": "weft.cli.merge:merge",
    "fold": "weft.cli.fold:fold",
    "export": "weft.cli.export:export",
    "store": "weft.cli.store:store",
    "train": "weft.cli.train:train",
    "eval": "weft.cli.eval:evaluate_recipe",
    "experiment": "weft.cli.experiment:experiment",
    "bench": "weft.cli.bench:bench",
    "reach": "weft.cli.reach:reach_of_network",
    "describe": "weft.cli.describe:describe",
    "map": "weft.cli.map:map_library",
    "plot": "weft.cli.plot:plot",
    "import-t2l": "weft.cli.import_t2l:import_released",
    "pull": "weft.cli.pull:pull",
    "push": "weft.cli.push:push",
    "list": "weft.cli.list:list_things",
    "show": "weft.cli.show:show",
}

_HELP = """Low-rank adapters that programs make, choose, mix and change.

For example:

    weft demo
    weft adapt "sort the letters" -o out/
    weft generate "cab" --adapter out/
"""


def build_app() -> "App":
    """The parser of the whole command line."""
    from cyclopts import App, Parameter

    app = App(
        name="weft",
        version=f"weft {__version__}",
        help=_HELP,
        help_format="plaintext",
        help_epilogue="With --debug, an error shows its traceback.",
        default_parameter=Parameter(negative_iterable=(), show_default=_shown),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for place, (verb, path) in enumerate(VERBS.items()):
        app.command(path, name=verb, sort_key=place)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0 is success, 1 an error that is told in one line, 2 a line that cannot be understood, 130 an interrupt.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed (`>&-`); else the next file would take its place
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    codecs.register_error("escapes", as_escapes)  # a terminal may know fewer characters
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="escapes")
    tokens, debug = _split_debug(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = _parse_and_run(tokens, debug)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go()  # the reader has seen enough (`weft list tasks | head`)
        return 1
    except WeftError as error:
        return _fail(str(error), 1, debug)
    except OSError as error:
        # The machine's refusal, wherever it came: a folder that may not be read, a name that is too long.
        return _fail(_refusal(error), 1, debug)
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    return code


def _parse_and_run(tokens: list[str], debug: bool) -> int:
    from cyclopts import CycloptsError

    for token in tokens:
        check_text(token, "an argument")
    app = build_app()
    import_listed(app, tokens)
    try:
        app(tokens)
    except CycloptsError as error:
        return _fail(str(error), 2, debug)
    return 0


def import_listed(app: "App", tokens: Sequence[str]) -> None:
    """Import the verbs that the help page of a line lists, so that it shows what each does."""
    page = app
    for token in tokens:
        if token in app.help_flags or token not in page:
            break
        page = page[token]
    if page is not app or not tokens or tokens[0] in app.help_flags:
        for verb in page:
            page[verb]


def _shown(default: object) -> str | None:
    """A default as the help shows it; nothing where it is off or empty."""
    return None if default is None or default is False or default == () else str(default)


def _split_debug(argv: Sequence[str]) -> tuple[list[str], bool]:
    """The tokens without `--debug`, and whether it was there; what follows `--` is left alone."""
    end = argv.index("--") if "--" in argv else len(argv)
    options = [token for token in argv[:end] if token != "--debug"]
    return [*options, *argv[end:]], len(options) < end


def _refusal(error: OSError) -> str:
    """What the machine refused, and where."""
    reason = error.strerror or str(error)
    return f"{shown_path(error.filename)}: {reason}" if isinstance(error.filename, str) else reason


def _let_go() -> None:
    """Write what is left, or drop what cannot be written: it would be tried again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int, debug: bool) -> int:
    _let_go()
    if debug:
        traceback.print_exc()
    print(f"weft: {one_line(message)}", file=sys.stderr)
    return code


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"weft: warning: {one_line(str(message))}", file=sys.stderr)
