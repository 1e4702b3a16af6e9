"""What the store computes: versions of a base from their recipes, and adapters on another version.

In one thread, for the order of a sum decides its last bit, and folding in float64, so that rounding is the
same on other machines.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from weft.adapters import concat, fingerprint, fold, in_float64, load, save, truncate, truncation_error
from weft.errors import BaseMismatchError
from weft.files import replace_folder
from weft.host import Host
from weft.host.bars import no_bars
from weft.store.accept import Folding


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, then in as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fold_base(base: str | os.PathLike[str], steps: Sequence[Folding], out: Path) -> str:
    """Fold steps into a base (any of the versions on the way), write it as a model; its fingerprint.

    Raises BaseMismatchError where it is none of them, SaveError when the disk refuses, and what
    `Host.from_pretrained` raises.
    """
    host = Host.from_pretrained(base)
    found = host.fingerprint
    parents = [step.parent for step in steps]
    if found not in parents:
        raise BaseMismatchError(
            f"{os.fspath(base)} has the fingerprint {found}, it should be one of {', '.join(parents)}"
        )
    with one_thread():
        for step in steps[parents.index(found) :]:
            if found != step.parent:
                raise BaseMismatchError(f"the recipe leads to {step.parent}, folding gave {found}")
            adapters = [in_float64(load(folder, base=step.parent)) for folder in step.folders]
            fold(host.module, concat(adapters, step.weights))
            found = fingerprint(host.module)
    module: Any = host.module
    with replace_folder(out) as fresh, no_bars():
        module.save_pretrained(fresh)
        if host.tokenizer is not None:
            host.tokenizer.save_pretrained(fresh)
    return found


def combine(
    folders: Sequence[Path], weights: Sequence[float], out: Path, base: str, rank: int | None
) -> float:
    """Write the weighted sum of adapters as one of a base; the relative error of a rank that is cut."""
    with one_thread():
        # They belong to different versions, which is what the sum makes up for.
        whole = concat([replace(load(folder), base="") for folder in folders], weights)
        lost = 0.0 if rank is None else truncation_error(whole, rank)
        kept = whole if rank is None else truncate(whole, rank)
    save(replace(kept, base=base, name=out.name), out)
    return lost
