"""K adapters in, one adapter out, offline: one pure function per method."""

from weft.merge.dispatch import METHODS, merge, options_of
from weft.merge.sources import Merged, Sources, Weights, gather

__all__ = ["METHODS", "Merged", "Sources", "Weights", "gather", "merge", "options_of"]
