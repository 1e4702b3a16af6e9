"""docs/walk.md is true: its commands run one after another, with few steps and rows."""

import importlib.util
import re
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
def test_the_walk_can_be_walked(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_walk", DOCS / "make_walk.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (DOCS / "walk.md").read_text(encoding="utf-8")
    then, now = outputs(page), outputs(script.walk(page, tmp_path, short=True))
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
