"""`weft store accept` and `weft store base`: versions of the base, as recipes and as weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weft.cli.shared.flags import Flag
from weft.cli.store import Message, Out, Place, Revision, say
from weft.errors import BaseMismatchError, ConfigError
from weft.store import Store

if TYPE_CHECKING:
    from weft.store.accept import Derive, Folding


def accept(
    *names: str,
    base: str | None = None,
    weights: Annotated[tuple[float, ...], Parameter(alias="-w", consume_multiple=True)] = (),
    evaluate: Annotated[str | None, Parameter(name="--eval")] = None,
    message: Message = None,
    store: Place = ".",
    json: Flag = False,
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
        message: Message of the commit.
        store: A folder in the store.
        json: Print JSON.
    """
    with Store(store) as opened:
        if base is None and names:
            base = opened.show(names[0]).config.get("base_model_name_or_path")
        if not base:
            raise ConfigError("no adapter names its base; name a folder of it with --base")
        done = opened.accept(
            *names, derive=derive_from(base), weights=weights or None, command=evaluate, message=message
        )
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
    json: Flag = False,
) -> None:
    """Write the base as its recipe makes it: a plain model, checked by its fingerprint.

    For example:

        weft store base weft/letters -o ../letters-2

    Args:
        folder: The base that the store began with, or any version since: a folder, a hub id, or a model that
            ships with Weft.
        out: Folder to write, which must not hold anything.
        version: Fingerprint of the version that is wanted; the last one unless given.
        rev: A commit, branch or tag.
        store: A folder in the store.
        json: Print JSON.
    """
    with Store(store) as opened:
        found = opened.write_base(out, derive_from(folder), version=version, rev=rev)
    say({"base": found, "out": str(Path(out).absolute())}, f"wrote {out}, base {found}", json)


def derive_from(name: str) -> Derive:
    """Folds into the model under a name: in float64, so that rounding is the same on other machines."""

    def derive(steps: Sequence[Folding], out: Path) -> str:
        import torch

        from weft.adapters import concat, fingerprint, fold, load
        from weft.cli.shared.model import open_host
        from weft.types import Factors

        torch.set_num_threads(1)
        host = open_host(name)
        found = host.fingerprint
        parents = [step.parent for step in steps]
        if found not in parents:
            raise BaseMismatchError(
                f"{name} has the fingerprint {found}, it should be one of {', '.join(parents)}"
            )
        for step in steps[parents.index(found) :]:
            if found != step.parent:
                raise BaseMismatchError(f"the recipe leads to {step.parent}, folding gave {found}")
            adapters = []
            for folder in step.folders:
                adapter = load(folder, base=step.parent)
                wide = {
                    site: Factors(a_RI.double(), b_OR.double(), scaling)
                    for site, (a_RI, b_OR, scaling) in adapter.factors.items()
                }
                adapters.append(replace(adapter, factors=wide))
            fold(host.module, concat(adapters, step.weights))
            found = fingerprint(host.module)
        model: Any = host.module
        model.save_pretrained(out)
        if host.tokenizer is not None:
            host.tokenizer.save_pretrained(out)
        return found

    return derive
