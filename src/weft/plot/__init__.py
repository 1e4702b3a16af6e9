"""Pictures of libraries and results."""

from weft.plot.map import draw_map

__all__ = ["draw_map"]
