"""The child that reads a pickle: `python -m weft.unpickle PICKLE TARGET`.

It imports nothing of Weft, bounds itself, loads with `weights_only=True`, writes the tensors to TARGET as
safetensors and their names to standard output, in their order. What calls it is `weft.hyper.read_pickled`.
"""

import json
import sys
from pathlib import Path
from typing import Any

SECONDS = 600
_ROOM = 8 << 30
"""Bytes of address space beyond three times the file: torch itself maps some."""
MOST_TENSORS = 4096


def _limit(size: int) -> None:
    """Bound this process for good."""
    if sys.platform == "win32":
        return  # it has no such limits; weights_only holds there alone
    import resource

    wanted = {
        resource.RLIMIT_AS: _ROOM + 3 * size,
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_FSIZE: size + (64 << 20),
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def checked(found: Any, size: int) -> Any:
    """A flat dict of floating-point tensors, no larger than the file; ends the process for anything else."""
    import torch

    if not isinstance(found, dict) or not found or len(found) > MOST_TENSORS:
        raise SystemExit(f"it holds no dict of 1 to {MOST_TENSORS} tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise SystemExit(f"{str(name)[:80]!r} is no floating-point tensor")
    # A tensor may be a view of one number, as large as it says.
    if sum(value.numel() * value.element_size() for value in found.values()) > size + (1 << 20):
        raise SystemExit("its tensors say that they are larger than the file")
    return found


def _main(source: str, target: str) -> None:
    import torch
    from safetensors.torch import save_file

    size = Path(source).stat().st_size
    _limit(size)
    found = checked(torch.load(source, map_location="cpu", weights_only=True), size)
    save_file({name: value.detach().contiguous().clone() for name, value in found.items()}, target)
    print(json.dumps(list(found)))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
