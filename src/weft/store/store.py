"""The store: a git repository of adapters of one base."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.store.add import Added, init, remove, take_in
from weft.store.git import Git
from weft.store.pointer import BLOBS_OVER

# Imported when they are called: adding an adapter should take no longer than git.
if TYPE_CHECKING:
    from weft.store.accept import Accepted, Base
    from weft.store.diff import Difference
    from weft.store.gate import Gated
    from weft.store.history import Version
    from weft.store.merge import Merged
    from weft.store.rebase import Rebased
    from weft.store.replay import Replayed
    from weft.store.show import Listed, Shown
    from weft.store.store_file import Modules
    from weft.store.values import ValueChange
    from weft.store.verify import Verified
    from weft.types import Adapter


class Store:
    """An open store. Closing it ends the git processes that serve it; its state is all in commits."""

    def __init__(self, folder: str | os.PathLike[str] = ".") -> None:
        """Open the store that a folder belongs to. Raises MissingFileError where there is no repository."""
        self._git = Git(folder)

    @classmethod
    def init(
        cls,
        folder: str | os.PathLike[str] = ".",
        *,
        base: str | None = None,
        modules: "Modules | None" = None,
        blobs: str | os.PathLike[str] | None = None,
        blobs_over: int = BLOBS_OVER,
    ) -> "Store":
        """Make a store, in a new git repository or in the one that is there, and open it.

        `base` is the fingerprint of the base that every adapter must fit, `modules` the sizes of its linear
        modules. With `blobs`, tensors of more than `blobs_over` bytes lie in that folder, and git holds
        pointers to them. Raises ConfigError for a store.
        """
        init(folder, base, modules, blobs, blobs_over)
        return cls(folder)

    @property
    def root(self) -> Path:
        """The working folder, or the repository where there is none."""
        return self._git.root

    def add(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        message: str | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Added:
        """Take a PEFT folder in under a name: committed with a message, staged without one.

        The lineage stays what it was unless one is given. Raises AdapterFormatError, BaseMismatchError,
        ConfigError, MissingFileError, and GitError or SaveError where git or the disk refuses.
        """
        return take_in(self._git, path, name, message, lineage)

    def stack(
        self,
        parent: str,
        path: str | os.PathLike[str],
        name: str,
        *,
        message: str | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Added:
        """Take in a PEFT folder that begins with an adapter's ranks: only its new columns are stored.

        Raises ShapeError where it is not the parent with new columns, to the bit, and what `add` raises.
        """
        return take_in(self._git, path, name, message, lineage, parent)

    def remove(self, name: str, *, message: str | None = None) -> str | None:
        """Take an adapter out; its history stays. Id of the commit, None when it was staged."""
        return remove(self._git, name, message)

    def checkout(self, name: str, out: str | os.PathLike[str], *, rev: str = "HEAD") -> None:
        """Write an adapter as a PEFT folder, the very bytes that went in.

        `out` is replaced whole or not at all. Raises UnknownNameError, SaveError, and AdapterFormatError for
        content that is not whole or not safe.
        """
        from weft.store.checkout import checkout

        checkout(self._git, name, out, rev)

    def load(self, name: str, *, rev: str = "HEAD") -> "Adapter":
        """An adapter, as `weft.load` reads its folder. Raises what that and `checkout` raise. Loads torch."""
        from weft.store.stored import stored_at
        from weft.store.values import load_stored

        return load_stored(self._git, stored_at(self._git, self._git.commit_of(rev), name))

    def export(self, name: str, out: str | os.PathLike[str], *, rev: str = "HEAD") -> bool:
        """`checkout`, with a model card where there is none; whether one was written."""
        from weft.store.export import export

        return export(self._git, name, out, rev)

    def export_oci(self, name: str, out: str | os.PathLike[str], *, rev: str = "HEAD") -> str:
        """Write an OCI image layout, as registries take it; digest of its manifest."""
        from weft.store.oci import export_oci

        return export_oci(self._git, name, out, rev)

    def log(self, name: str | None = None, *, rev: str = "HEAD") -> "list[Version]":
        """Versions of one adapter or of all, newest first."""
        from weft.store.history import log

        return log(self._git, name, rev)

    def diff(self, before: str, after: str) -> "list[Difference]":
        """Files that differ between two revisions, two adapters, or two `REVISION:NAME`."""
        from weft.store.diff import diff, sides_of

        return diff(sides_of(self._git, before, after))

    def diff_values(self, before: str, after: str) -> "list[ValueChange]":
        """Norm and rank of the change of every module, from the numbers. Loads torch."""
        from weft.store.diff import sides_of
        from weft.store.values import value_changes

        return value_changes(self._git, sides_of(self._git, before, after))

    def list(self, *, rev: str = "HEAD") -> "list[Listed]":
        """All adapters of a revision, by name."""
        from weft.store.show import list_adapters

        return list_adapters(self._git, rev)

    def show(self, name: str, *, rev: str = "HEAD") -> "Shown":
        """Config, base, lineage and size of one adapter."""
        from weft.store.show import show

        return show(self._git, name, rev)

    def verify(self) -> "Verified":
        """Check every commit that a branch, a tag or HEAD can reach; problems are listed, not raised."""
        from weft.store.verify import verify

        return verify(self._git)

    def merge(
        self,
        *revisions: str,
        name: str | None = None,
        message: str | None = None,
        on_conflict: str | None = None,
        weights: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> "Merged":
        """Merge revisions into HEAD in one commit; see `weft.store.merge.merge`."""
        from weft.store.merge import merge

        return merge(
            self._git,
            revisions,
            name=name,
            message=message,
            on_conflict=on_conflict,
            weights=weights,
            options=options,
        )

    def replay(self, base: "Base | None" = None) -> "Replayed":
        """Run every recipe again and compare to the bit; those of the base's versions where one is given."""
        from weft.store.replay import replay

        return replay(self._git, base)

    def accept(
        self,
        *names: str,
        base: "Base | None" = None,
        weights: Sequence[float] | None = None,
        command: str | None = None,
        message: str | None = None,
    ) -> "Accepted":
        """Fold adapters into the base and commit the recipe; see `weft.store.accept.accept`."""
        from weft.store.accept import accept

        return accept(self._git, names, base, weights=weights, command=command, message=message)

    def write_base(
        self, out: str | os.PathLike[str], base: "Base", *, version: str | None = None, rev: str = "HEAD"
    ) -> str:
        """Derive a version of the base into a folder; its fingerprint."""
        from weft.store.accept import write_base

        return write_base(self._git, Path(out), base, version, rev)

    def rebase(
        self, name: str, *, onto: str | None = None, rank: int | None = None, message: str | None = None
    ) -> "Rebased":
        """Bring an adapter to another version of the base; see `weft.store.rebase.rebase`."""
        from weft.store.rebase import rebase

        return rebase(self._git, name, onto=onto, rank=rank, message=message)

    def gate(self, revision: str, command: str | None = None) -> "Gated":
        """Check a contribution, and run a command on every adapter that it changes."""
        from weft.store.gate import gate

        return gate(self._git, revision, command)

    def close(self) -> None:
        """End the git processes."""
        self._git.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
