"""Run the commands of docs/walk.md in an empty folder, and write what they print beneath them.

`python docs/make_walk.py` takes some ten minutes on two cores. The page is its own source: a fence of kind
`console` holds commands behind `$ `, and a fence that follows a line like "`name`:" is a file of that name.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from weft.files import replace_file

PAGE = Path(__file__).parent / "walk.md"
_FENCE = re.compile(r"(?:^`(?P<file>[\w./-]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.M | re.S)
_SHORT = (
    (r"max_steps: \d+", "max_steps: 2"),
    (r"_steps: \d+", "_steps: 1"),
    (r"TRAIN, TEST = \d+, \d+", "TRAIN, TEST = 4, 2"),
    (r"_rows: \d+", "_rows: 2"),
    (r"rows_per_task: \d+", "rows_per_task: 2"),
)
"""What makes the page a matter of a minute: two steps, few rows."""


def run_command(command: str, folder: Path) -> str:
    """What a command prints, on both of its streams. Raises RuntimeError with it where the command fails."""
    here = Path(sys.executable).parent
    env = os.environ | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    for role in ("AUTHOR", "COMMITTER"):  # git asks who it is that keeps a version
        env |= {f"GIT_{role}_NAME": "Walker", f"GIT_{role}_EMAIL": "walker@example.org"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"$ {command}\n{done.stdout}exit code {done.returncode}")
    return done.stdout


def walk(
    text: str,
    folder: Path,
    *,
    short: bool = False,
    run: Callable[[str, Path], str] = run_command,
    told: Callable[[str], None] = lambda _: None,
) -> str:
    """Do what a page says in a folder; returns the page with what its commands print.

    Paths of this machine are written as `~` and `.`. Raises what `run` raises.
    """

    def do(fence: re.Match[str]) -> str:
        whole, file, kind, body = fence[0], fence["file"], fence["kind"], fence["body"]
        if file is not None:
            for pattern, few in _SHORT if short else ():
                body = re.sub(pattern, few, body)
            (folder / file).write_text(body, encoding="utf-8")
        if kind != "console":
            return whole
        shown = []
        for command in re.findall(r"^\$ (.*(?:\\\n.*)*)$", body, re.M):
            told(f"$ {command}")
            said = _neutral(run(command, folder), folder)
            told(said)
            shown.append(f"$ {command}\n{said}")
        return f"```console\n{''.join(shown)}```"

    return _FENCE.sub(do, text)


def _neutral(said: str, folder: Path) -> str:
    said = said.replace(str(folder.resolve()), ".").replace(str(Path.home()), "~")
    return "".join(f"{line.rstrip()}\n" for line in said.splitlines())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        page = PAGE.read_text(encoding="utf-8")
        replace_file(PAGE, walk(page, Path(made), told=lambda text: print(text, flush=True)))
