"""What a merge does about conflicts: as it is told, else by the store's own rules, else it fails.

The rules are those of HEAD's `weft-store.json`; what is merged into HEAD cannot bring rules of its own.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from weft.store.store_file import StoreFile

FAIL, OURS, THEIRS = "fail", "ours", "theirs"


class Policy(NamedTuple):
    """What to do about tensors that several sides changed."""

    on_conflict: str = FAIL
    """`fail`, `ours`, `theirs`, or a method of `weft.merging`."""
    weights: tuple[float, ...] | None = None
    """One for each parent, HEAD first; those of the sides in question are used."""
    options: Mapping[str, Any] = {}
    """Of the method."""

    @property
    def is_method(self) -> bool:
        """Whether numbers are merged."""
        return self.on_conflict not in (FAIL, OURS, THEIRS)


Policies = Callable[[str], Policy]
"""Name of an adapter, empty for what lies elsewhere -> its policy."""


def by_rules(file: StoreFile, weights: tuple[float, ...] | None = None) -> Policies:
    """The policies that a store's rules give; what lies outside of adapters fails, as without a rule."""

    def policy_for(name: str) -> Policy:
        for rule in file.merge if name else ():
            if fnmatchcase(name, rule.adapters):
                return Policy(rule.on_conflict, weights, rule.options)
        return Policy(FAIL, weights)

    return policy_for
