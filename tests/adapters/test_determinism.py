"""Law 10 for adapters: the same bytes in another process, whatever its hash seed."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, torch
from weft.adapters import fingerprint, save, site_at
from weft.types import Adapter, Factors
names = {"b", "a", "c", "q_proj", "v_proj"}  # a set: its order depends on the hash seed
factors = {}
for name in names:
    rank = 1 + len(name) % 3
    rows = torch.arange(rank * 4.0).view(rank, 4) * len(name)
    factors[site_at(f"h.0.{name}", 4, 4)] = Factors(rows, rows.T.contiguous(), float(ord(name[0])))
told = {name: 1 for name in names}
save(Adapter(factors, base="weft1-1", provenance=told), sys.argv[1])
torch.manual_seed(0)
print(fingerprint(torch.nn.Linear(33, 50)))
"""


def test_folders_and_fingerprints_are_the_same_in_every_process(tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / seed)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    printed = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert printed[0] == printed[1]
    files = [{f.name: f.read_bytes() for f in sorted((tmp_path / seed).iterdir())} for seed in ("1", "2")]
    assert files[0] == files[1]
    assert sorted(files[0]) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
