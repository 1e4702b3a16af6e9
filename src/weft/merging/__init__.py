"""K adapters in, one adapter out, offline: one pure function per method."""

from weft.merging.dispatch import METHODS, merge, options_of
from weft.merging.sources import Merged, Sources, Weights, gather

__all__ = ["METHODS", "Merged", "Sources", "Weights", "gather", "merge", "options_of"]
