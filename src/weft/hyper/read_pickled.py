"""Tensors out of a pickle of torch's, in a process of its own that may do little else.

`torch.load(weights_only=True)` builds tensors and plain containers and calls nothing else. It runs in a child
with limits on memory, time, written bytes and open files, which writes safetensors and names what it wrote;
the parent reads those and never a pickle.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from weft.errors import WeightsError
from weft.reading import check_file, shown_path
from weft.saved import read_tensors
from weft.unpickle import SECONDS

_MOST_BYTES = 8 << 30


def read_pickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, in the order in which they were saved.

    Raises MissingFileError, and WeightsError for anything but a flat dict of floating-point tensors, for a
    file or tensors over 8 GiB, and where the child runs into a limit.
    """
    size = check_file(file).stat().st_size
    if size > _MOST_BYTES:
        raise WeightsError(f"{shown_path(file)} has {size} bytes, at most {_MOST_BYTES} are read")
    with tempfile.TemporaryDirectory(prefix="weft-") as place:
        target = Path(place) / "tensors.safetensors"
        command = [sys.executable, "-m", "weft.unpickle", str(Path(file).absolute()), str(target)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise WeightsError(f"{shown_path(file)} was not read within {SECONDS} seconds") from error
        if run.returncode:
            lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
            reason = lines[-1][:200] if lines else f"the process that read it ended with {run.returncode}"
            raise WeightsError(f"{shown_path(file)} is no pickle of plain tensors: {reason}")
        tensors = read_tensors(target)
    return {name: tensors[name] for name in json.loads(run.stdout)}
