"""Write docs/cli/, one page per verb, from the help that the program prints: `python docs/make_cli.py`."""

import io
from pathlib import Path

from rich.console import Console

from weft.cli.app import VERBS, build_app, import_listed
from weft.files import replace_file

_FOLDER = Path(__file__).parent / "cli"


def build_pages() -> dict[str, str]:
    """File name -> text of every page."""
    links = "\n".join(f"- [weft {verb}]({verb}.md)" for verb in VERBS)
    pages = {f"{verb}.md": f"# weft {verb}\n\n{_fenced(_help(verb))}" for verb in VERBS}
    return {"README.md": f"# The command line\n\n{_fenced(_help())}\n{links}\n"} | pages


def _help(*tokens: str) -> str:
    app = build_app()
    import_listed(app, tokens)
    out = io.StringIO()
    app.help_print(tokens, console=Console(file=out, width=90, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _fenced(text: str) -> str:
    return f"```text\n{text.strip()}\n```\n"


if __name__ == "__main__":
    for name, text in build_pages().items():
        replace_file(_FOLDER / name, text)
