"""Versions of adapters in a git repository: one file per tensor, all state in commits."""

from weft.store.git import GitError
from weft.store.store import Store

__all__ = ["GitError", "Store"]
