"""The short form; `make fuzz` runs many more."""

import os
from pathlib import Path

import pytest
from damaged_folders import KINDS, make_folders, reader, run

CASES = int(os.environ.get("WEFT_FUZZ_CASES", "12"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("sound")
    return root, *make_folders(root)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_folder_ends_in_one_line(kind: str, sound, tmp_path: Path) -> None:
    root, host, bank = sound
    read = reader(kind, host, bank)
    read(root / kind)
    said = [run(tmp_path / kind, root / kind, read, seed) for seed in range(CASES)]
    assert said.count("read") < CASES / 2, "most cases are refused"
