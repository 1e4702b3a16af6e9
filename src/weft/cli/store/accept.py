"""`weft store accept` and `weft store base`: versions of the base, as recipes and as weights."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weft.cli.shared.flags import Json
from weft.cli.store import Message, Out, Place, Revision, say
from weft.store import Store


def accept(
    *names: str,
    base: str | None = None,
    weights: Annotated[tuple[float, ...], Parameter(alias="-w", consume_multiple=True)] = (),
    evaluate: Annotated[str | None, Parameter(name="--eval")] = None,
    message: Message = None,
    store: Place = ".",
    json: Json = False,
) -> None:
    """Fold adapters into the base: its next version, once it passes.

    What is committed is the recipe: the adapters, their weights, and the
    fingerprint that comes out. `weft store base` derives the weights from it,
    `weft store rebase` brings other adapters along. For example:

        weft store accept reverse --base weft/letters --eval "python evaluate.py {}"

    Args:
        names: The adapters.
        base: The base that the store began with, or a later version: a folder, a hub id, or a model that
            ships with Weft. What the adapters name unless given.
        weights: One for each adapter; 1 unless given.
        evaluate: A command that exits with 0 when the new base is good; {} is its folder. There is no shell.
    """
    with Store(store) as opened:
        done = opened.accept(*names, base=base, weights=weights or None, command=evaluate, message=message)
    commit = f", committed as {done.commit[:12]}" if done.commit else ""
    say(done._asdict(), f"the base is now {done.base}{commit}", json)


def base(
    folder: str,
    /,
    *,
    out: Out,
    version: str | None = None,
    rev: Revision = "HEAD",
    store: Place = ".",
    json: Json = False,
) -> None:
    """Write the base as its recipe makes it: a plain model, checked by its fingerprint.

    For example:

        weft store base weft/letters -o ../letters-2

    Args:
        folder: The base that the store began with, or any version since: a folder, a hub id, or a model that
            ships with Weft.
        out: Folder to write, which must not hold anything.
        version: Fingerprint of the version that is wanted; the last one unless given.
    """
    with Store(store) as opened:
        found = opened.write_base(out, folder, version=version, rev=rev)
    say({"base": found, "out": str(Path(out).absolute())}, f"wrote {out}, base {found}", json)
