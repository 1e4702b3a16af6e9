"""`weft bench`: the measurements in `bench/`, and the page that reports them."""

import importlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weft.cli.shared.checkout import checkout_folder
from weft.cli.shared.flags import Flag, Json, Threads, set_threads
from weft.cli.shared.screen import print_json, print_rows, readable, stdout
from weft.errors import UnknownNameError
from weft.files import nearest, replace_file

_TITLE = """# Speed and memory

Written by `weft bench NAME --write`. Every ratio is against a peer measured in the same run.
"""


def bench(
    *names: str,
    write: Flag = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Measure speed and memory against a peer in the same run.

    The measurements come with a checkout of Weft, in its folder bench/. For
    example:

        weft bench kernels
        weft bench kernels train-many --write

    Args:
        names: Which ones; without a name they are listed.
        write: Put the numbers into docs/results/speed.md as well, with versions and threads.
    """
    folder = checkout_folder("bench")
    found = {
        path.stem.replace("_", "-"): path for path in sorted(folder.glob("*.py")) if path.stem.isidentifier()
    }
    found = {name: path for name, path in found.items() if "\ndef run(" in path.read_text(encoding="utf-8")}
    for name in names:
        if name not in found:
            raise UnknownNameError(f"no bench {name}{nearest(name, found)}; there are {', '.join(found)}")
    if not names:
        listed = [{"name": name, "file": str(path)} for name, path in found.items()]
        print_json(listed) if json else print_rows(listed)
        return
    set_threads(threads)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        about, results[name] = _run(folder, found[name].stem)
        if write:
            page = folder.parent / "docs" / "results" / "speed.md"
            replace_file(page, put_section(_read(page), name, _section(about, results[name])))
        if not json:
            stdout().print(f"[bold]{name}[/]  {about}", soft_wrap=True)
            print_rows(results[name])
    if json:
        print_json({"conditions": conditions(), "results": results})


def conditions() -> str:
    """Versions, threads and machine, in one line."""
    import torch

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"Python {platform.python_version()}, {packages}; {torch.get_num_threads()} threads of "
        f"{os.cpu_count()} CPUs ({platform.machine()}){gpu}"
    )


def put_section(page: str, name: str, section: str) -> str:
    """The page with one section replaced, or added at the end; the others stay as they are."""
    head, *parts = page.split("\n## ")
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}
    sections[name] = section.strip()
    return "\n".join([head.strip() + "\n", *(f"## {key}\n\n{text}\n" for key, text in sections.items())])


def _run(folder: Path, module: str) -> tuple[str, list[dict[str, Any]]]:
    """First line of a bench's docstring, and the rows that its `run()` returns."""
    sys.path.insert(0, str(folder.parent))
    try:
        loaded = importlib.import_module(f"bench.{module}")
        return (loaded.__doc__ or "").partition("\n")[0], loaded.run()
    finally:
        sys.path.remove(str(folder.parent))


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.is_file() else _TITLE


def _section(about: str, rows: Sequence[Mapping[str, Any]]) -> str:
    from weft.evaluate.tables import markdown_table

    cells = [list(rows[0]), *([readable(value) for value in row.values()] for row in rows)]
    return f"{about}\n\n{conditions()}\n\n{markdown_table(cells)}"
