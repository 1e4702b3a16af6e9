"""`weft store merge-driver`: what git calls for one file, where it is configured to."""

from pathlib import Path

from weft.store.driver import merge_file, policy_at


def merge_driver(
    ancestor: Path, ours: Path, theirs: Path, path: str, /, *, on_conflict: str | None = None
) -> None:
    """Merge one file for git: adapter.json key by key, tensors exactly.

    Exits with 1 and one line for a conflict. To configure:

        git config merge.weft.driver "weft store merge-driver %O %A %B %P"
        echo 'adapters/** merge=weft' >> .git/info/attributes

    Args:
        ancestor: File with the common ancestor's version (%O).
        ours: File with our version (%A); the result is written to it.
        theirs: File with their version (%B).
        path: Where the file lies in the repository (%P).
        on_conflict: fail, ours or theirs; what the rules of the store say unless given.
    """
    merge_file(ancestor, ours, theirs, path, on_conflict or policy_at(".", path))
