"""`weft store`: versions of adapters in a git repository."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from weft.cli.shared.flags import Flag, Json
from weft.errors import ConfigError, MissingFileError
from weft.files import read_json
from weft.plain import json_text, plain
from weft.store import Store
from weft.store.add import Added
from weft.store.pointer import BLOBS_OVER

# The table printer is imported by those who print a table.

store = App(
    name="store",
    help="""Keep versions of adapters in a git repository.

Equal tensors are stored once, edits of different layers merge with plain
git, and what comes out is what went in, to the byte. For example:

    weft store init my-store
    cd my-store
    weft store add ../out --name reverse -m "First version"
    weft store checkout reverse -o ../again
""",
)

Place = Annotated[str, Parameter(name="--store", help="A folder in the store.")]
Message = Annotated[str | None, Parameter(name=("--message", "-m"), help="Message of the commit.")]
Name = Annotated[str, Parameter(name=("--name", "-n"))]
Out = Annotated[str, Parameter(name=("--output", "-o", "--output-dir"))]
Revision = Annotated[str, Parameter(name="--rev", help="A commit, branch or tag.")]


# Imported when they are called, as the verbs are.
for _verb in (
    "stack",
    "accept",
    "rebase",
    "merge",
    "verify",
    "gate",
    "merge_driver",
    "filter_process",
    "textconv",
    "clone",
    "export",
):
    store.command(f"weft.cli.store.{_verb}:{_verb}", name=_verb.replace("_", "-"))
store.command("weft.cli.store.accept:base", name="base")


@store.command
def init(
    folder: str = ".",
    /,
    *,
    base: str | None = None,
    blobs: str | None = None,
    blobs_over: int | None = None,
    json: Json = False,
) -> None:
    """Make a store, in a new git repository or in the one that is there.

    Args:
        folder: Where.
        base: The base that every adapter must fit: a folder, a model that ships with Weft, or a fingerprint.
        blobs: A second place, for large tensors: a folder that all share. Git then holds pointers to them.
        blobs_over: Bytes from which a tensor is large; 1 MiB unless given.
    """
    if blobs_over is not None and blobs is None:
        raise ConfigError("--blobs-over is for a second place; name it with --blobs")
    fingerprint, modules = (None, None) if base is None else _facts_of(base)
    over = BLOBS_OVER if blobs_over is None else blobs_over
    with Store.init(folder, base=fingerprint, modules=modules, blobs=blobs, blobs_over=over) as made:
        facts = {"store": str(made.root), "base": fingerprint}
    say(facts, f"made a store in {facts['store']}", json)


@store.command
def add(
    path: str,
    /,
    *,
    name: Name,
    message: Message = None,
    lineage: str | None = None,
    store: Place = ".",
    json: Json = False,
) -> None:
    """Take an adapter in: commit it with a message, stage it without one.

    Args:
        path: A PEFT folder, the safetensors file in one, or an adapter that ships with Weft.
        name: Name of the adapter in the store.
        lineage: A JSON file with recipe, parents, data, metrics, licence, author: any of them. It replaces
            what the adapter had.
    """
    keys = None if lineage is None else read_lineage(lineage)
    with Store(store) as opened:
        added = opened.add(path, name, message=message, lineage=keys)
    say_added(added, f"{added.written} of {added.tensors} tensors are new", message, json)


@store.command
def checkout(
    name: str, /, *, out: Out, rev: Revision = "HEAD", store: Place = ".", json: Json = False
) -> None:
    """Write an adapter as a PEFT folder, the very bytes that went in.

    Args:
        name: The adapter.
        out: The folder; a former adapter there is replaced.
    """
    with Store(store) as opened:
        opened.checkout(name, out, rev=rev)
    say({"name": name, "out": str(Path(out).absolute())}, f"wrote {out}", json)


@store.command
def log(
    name: str | None = None, /, *, rev: Revision = "HEAD", store: Place = ".", json: Json = False
) -> None:
    """List versions, newest first, and who signed them.

    Args:
        name: The adapter; all unless given.
        rev: A commit, branch or tag to begin with.
    """
    with Store(store) as opened:
        versions = opened.log(name, rev=rev)
    _rows(versions, json)


@store.command
def diff(before: str, after: str, /, *, values: Flag = False, store: Place = ".", json: Json = False) -> None:
    """Name the layers and tensors that differ between two versions.

    Each side is a revision, an adapter (as HEAD has it), or REVISION:NAME. For
    example:

        weft store diff HEAD~1 HEAD
        weft store diff main:reverse my-branch:reverse --values

    Args:
        before: One side.
        after: The other.
        values: Read the numbers: norm and rank of the change of every layer.
    """
    with Store(store) as opened:
        rows = opened.diff_values(before, after) if values else opened.diff(before, after)
    _rows(rows, json)


@store.command(name="list")
def list_adapters(*, rev: Revision = "HEAD", store: Place = ".", json: Json = False) -> None:
    """List the adapters of a revision."""
    with Store(store) as opened:
        listed = opened.list(rev=rev)
    _rows(listed, json)


@store.command
def show(name: str, /, *, rev: Revision = "HEAD", store: Place = ".", json: Json = False) -> None:
    """Say what an adapter is: base, size, config, lineage.

    Args:
        name: The adapter.
    """
    with Store(store) as opened:
        shown = opened.show(name, rev=rev)._asdict()
    if json:
        say(shown, "", json)
        return
    from weft.cli.shared.screen import print_pairs

    sections = {key: shown.pop(key) or {} for key in ("config", "metadata", "lineage")}
    flat = {
        f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()
    }
    print_pairs(shown | {key: value for key, value in flat.items() if value is not None})


@store.command
def rm(name: str, /, *, message: Message = None, store: Place = ".", json: Json = False) -> None:
    """Take an adapter out; its history stays. Commit with a message, stage without one.

    Args:
        name: The adapter.
    """
    with Store(store) as opened:
        commit = opened.remove(name, message=message)
    outcome = f"removed in {commit[:12]}" if commit else "staged its removal"
    say({"name": name, "commit": commit}, f"{name}: {outcome}", json)


def read_lineage(path: str) -> dict[str, Any]:
    """The keys and values in a JSON file. Raises ConfigError, MissingFileError."""
    keys = read_json(Path(path))
    if not isinstance(keys, dict):
        raise ConfigError(f"{path} should hold keys and values, it holds {keys!r:.40}")
    return keys


def say(facts: dict[str, Any], line: str, json: bool) -> None:
    """Print what was done: all facts for machines, or a line for people."""
    if json:
        print(json_text(facts))
    elif line:
        print(plain(line))


def say_added(added: Added, what: str, message: str | None, json: bool) -> None:
    """Print what became of an adapter that was taken in."""
    outcome = (
        f"committed as {added.commit[:12]}" if added.commit else "staged" if message is None else "unchanged"
    )
    line = f"{added.name}: {outcome}, {what}"
    if added.left_out:
        line += f"; not stored: {', '.join(added.left_out)}"
    say(added._asdict(), line, json)


def _rows(rows: Sequence[Any], json: bool) -> None:
    listed = [row._asdict() for row in rows]
    if json:
        print(json_text(listed))
    elif listed:
        from weft.cli.shared.screen import print_rows

        print_rows(listed)


def _facts_of(base: str) -> tuple[str, dict[str, tuple[int, int]] | None]:
    """Fingerprint of a base and the sizes of its linear modules, which a fingerprint alone does not tell."""
    if base.startswith(("weft1-", "weft2-")):
        return base, None
    from weft.cli.shared.model import open_host
    from weft.files import resolve
    from weft.host import sites_of

    if resolve(base) is None:
        raise MissingFileError(
            f"no base at {base}; give a folder, a model that ships with Weft, or a fingerprint"
        )
    host = open_host(base)
    sites = sites_of(host.module, ".*")
    return host.fingerprint, {site.path: (site.in_features, site.out_features) for site in sites}
