"""docs/walk.md is true: its commands run one after another, with few steps and rows."""

import contextlib
import importlib.util
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.cli import main

DOCS = Path(__file__).parents[2] / "docs"
VERBS = {"pull", "generate", "train", "list", "eval", "route", "merge", "fold", "store", "plot"}


def outputs(page: str) -> dict[str, str]:
    """Command -> what stands beneath it."""
    found: dict[str, str] = {}
    for body in re.findall(r"^```console\n(.*?)^```$", page, re.M | re.S):
        for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
            command, _, said = part.partition("\n")
            found[command] = said
    return found


def in_this_process(elsewhere: Callable[[str, Path], str]) -> Callable[[str, Path], str]:
    """Commands of ours without a process each, which would import torch twenty times; others `elsewhere`."""

    def run(command: str, folder: Path) -> str:
        moved = re.fullmatch(r"cd (\S+) && (.*)", command, re.S)
        words = shlex.split(moved[2] if moved else command)
        if words[0] != "weft":
            return elsewhere(command, folder)
        said = io.StringIO()
        place = folder / moved[1] if moved else folder
        with contextlib.chdir(place), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(words[1:])
        assert code == 0, f"$ {command}\n{said.getvalue()}"
        return said.getvalue()

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
def test_the_walk_can_be_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Walker")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "walker@example.org")
    spec = importlib.util.spec_from_file_location("make_walk", DOCS / "make_walk.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (DOCS / "walk.md").read_text(encoding="utf-8")
    run = in_this_process(script.run_command)
    then, now = outputs(page), outputs(script.walk(page, tmp_path, short=True, run=run))
    assert now.keys() == then.keys()
    assert {verb for verb in VERBS if any(f"weft {verb}" in command for command in now)} == VERBS
    assert all(said for command, said in then.items() if "make_rows" not in command), "run `make walk`"
    for command in now:  # those that do not tell of steps, rows or time
        if command.startswith(("ls ", "weft list tasks")):
            assert now[command] == then[command], command
    assert (tmp_path / "folded" / "model.safetensors").is_file()
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["loss.png"]
    again = tmp_path / "again" / "adapter_model.safetensors"
    assert again.read_bytes() == (tmp_path / "runs/first/adapters/iso_date" / again.name).read_bytes()
