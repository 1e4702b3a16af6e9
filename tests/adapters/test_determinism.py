"""Law 10 for adapters: the same bytes in another process, whatever its hash seed."""

from pathlib import Path

import pytest
import torch

from forked import elsewhere
from weft.adapters import fingerprint, save, site_at
from weft.types import Adapter, Factors


def write(folder: Path) -> None:
    names = {"b", "a", "c", "q_proj", "v_proj"}  # a set: its order depends on the hash seed
    factors = {}
    for name in names:
        rank = 1 + len(name) % 3
        rows = torch.arange(rank * 4.0).view(rank, 4) * len(name)
        factors[site_at(f"h.0.{name}", 4, 4)] = Factors(rows, rows.T.contiguous(), float(ord(name[0])))
    told = dict.fromkeys(names, 1)
    save(Adapter(factors, base="weft1-1", provenance=told), folder)
    torch.manual_seed(0)
    print(fingerprint(torch.nn.Linear(33, 50)), end="")


def test_folders_and_fingerprints_are_the_same_in_every_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "here")
    there = elsewhere(write, tmp_path / "there", said=tmp_path / "said.txt")
    assert capsys.readouterr().out == there
    files = [{f.name: f.read_bytes() for f in sorted((tmp_path / w).iterdir())} for w in ("here", "there")]
    assert files[0] == files[1]
    assert sorted(files[0]) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
