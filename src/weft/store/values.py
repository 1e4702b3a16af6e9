"""The size and rank of a change, from the numbers themselves.

    D = s2 B2 A2 - s1 B1 A1 = [s2 B2, -s1 B1] [A2; A1]

is low-rank as well, so its singular values come from factors of twice the rank, in float64.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from weft.adapters import load, spectrum
from weft.store.accept import write_folders
from weft.store.diff import Sides, changes_delta, diff
from weft.store.git import Git
from weft.store.stored import Stored
from weft.types import Adapter, Factors, Site

_NOISE = 1e-10
"""Singular values below this, relative to the larger of both deltas, are rounding."""


class ValueChange(NamedTuple):
    """How far one module's delta moved."""

    adapter: str
    layer: str
    norm: float
    """Frobenius norm of the difference of the deltas."""
    relative: float | None
    """The same over the norm of the old delta; None where there was none."""
    rank: int
    """Rank of the difference."""


def value_changes(git: Git, sides: Sides) -> list[ValueChange]:
    """Norm and rank of the change of every module whose delta may differ; one side may lack it.

    Raises what `weft.load` raises for an adapter that Weft does not run.
    """
    rows, listed = [], diff(sides)
    for name, (old, new) in sides.items():
        if changes_delta(listed, name):
            mine, theirs = _factors(git, old), _factors(git, new)
            for site in sorted({*mine, *theirs}, key=lambda s: (s.path, s.in_features, s.out_features)):
                row = _change(name, site, mine.get(site), theirs.get(site))
                if row.norm:
                    rows.append(row)
    return rows


def load_stored(git: Git, stored: Stored, base: str = "") -> Adapter:
    """A stored adapter as `weft.load` reads it, under its own name. Raises what that raises."""
    with tempfile.TemporaryDirectory(prefix="weft-store-") as temporary:
        (folder,) = write_folders(git, [stored], Path(temporary))
        return load(folder, base=base)


def _factors(git: Git, stored: Stored | None) -> Mapping[Site, Factors]:
    return {} if stored is None else load_stored(git, stored).factors


def _change(name: str, site: Site, old: Factors | None, new: Factors | None) -> ValueChange:
    sides = [side for side in (old, new) if side is not None]
    signs = [-1.0, 1.0] if old is not None and new is not None else [1.0]
    a_RI = torch.cat([side.a_RI.double() for side in sides])
    b_OR = torch.cat(
        [sign * side.scaling * side.b_OR.double() for sign, side in zip(signs, sides, strict=True)], 1
    )
    largest = max(float(spectrum(side).s_R.max()) for side in sides)
    s_R = spectrum(Factors(a_RI, b_OR, 1.0)).s_R
    kept = s_R[s_R > _NOISE * largest]
    norm = float(kept.norm())
    before = float(spectrum(old).s_R.norm()) if old is not None else 0.0
    return ValueChange(name, site.path, norm, norm / before if before else None, len(kept))
