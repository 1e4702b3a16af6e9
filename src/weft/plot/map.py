"""The map of a library as a picture; `embed/plan.py` says where its adapters lie."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from weft.embed import NEAREST, LibraryMap
from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 64  # letters of a label
_ALONE = "#a0a0a0"
_COLOURS = (
    *("#1f77b4", "#d95f02", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#5a5a5a", "#a6a61a", "#17becf"),
)


def draw_map(library: LibraryMap, path: str | os.PathLike[str], *, title: str) -> None:
    """Write the picture as a PNG. Raises MissingExtraError without matplotlib, SaveError."""
    scale = max(1.0, (len(library.names) / 40) ** 0.5)
    drawn, axes = figure(11 * scale, 8.5 * scale)
    axes.grid(False)
    _draw_points(axes, library)
    axes.set_title(title, loc="left", fontsize=15, fontweight="bold", pad=34, parse_math=False)
    note = (
        "Near means alike. A line leads from each adapter to its most similar one, thicker the more alike."
        f"\nFor {library.kept:.0%} of them, that one is also among the {NEAREST} nearest in this picture. "
        "Distances between groups mean nothing."
    )
    corner = {"xycoords": "axes fraction", "xytext": (0, 6), "textcoords": "offset points"}
    axes.annotate(note, (0.0, 1.0), fontsize=9, color="#555555", va="bottom", **corner)
    drawn.draw_without_rendering()  # so that the labels know their room
    _draw_labels(axes, library, drawn.dpi / 72)
    save_figure(drawn, path)


def _draw_points(axes: Axes, library: LibraryMap) -> None:
    place_K2 = library.place_K2
    nearest_K = np.array([found[0] for found in library.neighbours])
    cosine_K = library.cosine_KK[np.arange(len(nearest_K)), nearest_K]
    strength_K = cosine_K.clip(min=0) / max(float(cosine_K.max()), 1e-9)
    for k, near in enumerate(nearest_K):
        axes.plot(*place_K2[[k, near]].T, color="#bbbbbb", linewidth=0.3 + 2.2 * strength_K[k], zorder=1)
    for cluster, centre in enumerate(library.centres):
        mine_K = library.cluster_K == cluster
        label = f"around {_short(library.names[centre])} ({mine_K.sum()})"
        axes.scatter(
            *place_K2[mine_K].T, s=60, color=_COLOURS[cluster], edgecolors="white", zorder=3, label=label
        )
    alone_K = library.cluster_K < 0
    if alone_K.any():
        label = f"like no others ({alone_K.sum()})"
        axes.scatter(*place_K2[alone_K].T, s=60, color=_ALONE, edgecolors="white", zorder=3, label=label)
    legend = axes.legend(
        title="clusters, by their most central adapter",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=4,
        fontsize=9,
        title_fontsize=9,
        frameon=False,
        handletextpad=0.1,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set(xticks=[], yticks=[], xlim=(-1.2, 1.2), ylim=(-1.1, 1.1))
    axes.spines[:].set(visible=True, color="#dddddd")


def _draw_labels(axes: Axes, library: LibraryMap, unit: float) -> None:
    """Each label where it covers the least of what is there before it, the crowded points first.

    `unit` is the pixels of one typographic point.
    """
    from matplotlib.patheffects import withStroke

    pixel_K2 = axes.transData.transform(library.place_K2)
    nearest_K = [found[0] for found in library.neighbours]
    along = np.linspace(0.1, 0.9, 12)[:, None, None]
    lines_N2 = (along * pixel_K2 + (1 - along) * pixel_K2[nearest_K]).reshape(-1, 2)
    taken = [*_squares(pixel_K2, 5 * unit), *_squares(lines_N2, 2 * unit)]
    frame = axes.get_window_extent().padded(-4 * unit)
    room_K = np.square(pixel_K2[:, None] - pixel_K2).sum(-1)
    np.fill_diagonal(room_K, np.inf)
    for k in room_K.min(1).argsort(kind="stable"):
        cluster = int(library.cluster_K[k])
        colour = _ALONE if cluster < 0 else _COLOURS[cluster]
        text = axes.annotate(
            _short(library.names[k]),
            (library.place_K2[k, 0], library.place_K2[k, 1]),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9,
            color=colour,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            parse_math=False,
            zorder=4,
        )
        size = text.get_window_extent()
        best, end, least = np.zeros(4), np.zeros(2), np.inf
        for distance in (8, 14, 22, 32, 44):
            for angle in np.arange(16) * np.pi / 8:
                x, y = np.cos(angle), np.sin(angle)
                near = pixel_K2[k] + unit * distance * np.array([x, y])
                corner = near + np.array([(x - 1) / 2 * size.width, (y - 1) / 2 * size.height])
                box = np.concatenate([corner, corner + np.array([size.width, size.height])])
                outside = max(0.0, frame.x0 - box[0], box[2] - frame.x1, frame.y0 - box[1], box[3] - frame.y1)
                cost = _overlap(box, np.array(taken)) + size.height * outside + 0.3 * unit**2 * distance
                if cost < least:
                    best, end, least = box, near, cost
        taken.append(best)
        text.set_position(tuple((best[:2] - pixel_K2[k]) / unit))
        if np.hypot(*(end - pixel_K2[k])) > 10 * unit:
            leader_22 = axes.transData.inverted().transform([pixel_K2[k], end])
            axes.plot(*leader_22.T, color=colour, linewidth=0.6, zorder=2)


def _squares(centre_N2: np.ndarray, half: float) -> np.ndarray:
    return np.concatenate([centre_N2 - half, centre_N2 + half], 1)


def _overlap(box: np.ndarray, boxes: np.ndarray) -> float:
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    return float((width.clip(min=0) * height.clip(min=0)).sum())


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
