"""What the tests of the command line share: names and folders of a tiny world."""

from dataclasses import dataclass

DESCRIPTIONS = ("sort the letters", "reverse the string")


@dataclass(frozen=True)
class Tiny:
    """Folders of two bases, and of a hypernetwork for the first; the first one's fingerprint."""

    base: str
    other_base: str
    hyper: str
    fingerprint: str
