"""Pictures of libraries and results."""

from weft.plot.map import LibraryMap, draw_map, lay_out, to_dict

__all__ = ["LibraryMap", "draw_map", "lay_out", "to_dict"]
