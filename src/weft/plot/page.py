"""A blank picture, and how one is written: equal values give equal bytes."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from weft.errors import MissingExtraError
from weft.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """One pair of axes with a light grid; sizes in inches. Raises MissingExtraError."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("pictures need the extra plot: pip install 'weft[plot]'") from error
    # Without pyplot: no window system is asked for, and no global state is left behind.
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots()
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def save_figure(drawn: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG, whole or not at all. Raises SaveError."""
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=130, metadata={"Software": None})
    replace_file(path, content.getvalue())
