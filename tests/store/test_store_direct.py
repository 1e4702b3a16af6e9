"""A plain line is understood as the command-line library understands it, and no other line is taken."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from store_kit import contents, git, lora, write_folder

from weft.cli.app import build_app
from weft.cli.direct import plain_call

PLAIN = [
    "add out --name a",
    "add out -n a -m First --store s",
    "add --store s --message none --name a weft/letters",
    "add out.safetensors --name 007 -m 1e3",
    "checkout a -o out",
    "checkout --out out --rev HEAD~1 --store s a",
    "checkout null -o true",
]
OTHERS = [
    "",
    "add",
    "--help",
    "add --help",
    "add out",
    "add --name a",
    "add out more --name a",
    "add out --name",
    "add out --name -m x",
    "add out --name a --name b",
    "add out -n a --name b",
    "add out --name=a",
    "add out -na",
    "add out --name a --json",
    "add out --name a --lineage x",
    "add out --nam a",
    "add -- out --name a",
    "add out --name a -m -x",
    "checkout a",
    "checkout a -o out b",
    "verify --replay",
    "diff a b",
]


@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_line_means_the_same(line: str) -> None:
    words = ["store", *line.split()]
    call = plain_call(words)
    assert isinstance(call, partial)
    function, bound, *_ = build_app().parse_args(words)
    assert function.__name__ == call.func.__name__
    assert call.keywords == bound.arguments


@pytest.mark.parametrize("line", OTHERS)
def test_other_lines_are_the_library_s(line: str) -> None:
    assert plain_call(["store", *line.split()]) is None
    assert plain_call(line.split()) is None


def test_texts_with_blanks_and_nothing() -> None:
    call = plain_call(["store", "add", "my out", "--name", "a", "-m", "Two words"])
    assert isinstance(call, partial)
    assert call.keywords == {"path": "my out", "name": "a", "message": "Two words"}
    assert plain_call(["store", "add", "out", "--name", "a", "-m", ""]) is None
    assert plain_call(["store", "add", "", "--name", "a"]) is None


def test_neither_loads_the_library_nor_numbers(root: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", lora())
    lines = (
        ["store", "add", str(folder), "--name", "a", "-m", "x", "--store", str(root)],
        ["store", "checkout", "a", "-o", str(tmp_path / "out"), "--store", str(root)],
    )
    program = (
        "import sys; from weft.cli import main; main(sys.argv[1:]);"
        "print(*({'cyclopts', 'torch', 'numpy', 'rich'} & sys.modules.keys()), end='')"
    )
    said = [
        subprocess.run([sys.executable, "-c", program, *line], capture_output=True, text=True, check=True)
        for line in lines
    ]
    head = git(root, "rev-parse", "--short=12", "HEAD")
    assert said[0].stdout == f"a: committed as {head}, 6 of 6 tensors are new\n"
    assert said[1].stdout == f"wrote {tmp_path / 'out'}\n"
    assert contents(tmp_path / "out") == contents(folder)
