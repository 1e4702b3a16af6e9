"""`weft store merge`: branches into one, unattended."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weft.cli.merge import MethodFlags
from weft.cli.shared.flags import Flag
from weft.cli.store import Message, Place, say
from weft.errors import ConfigError
from weft.store import Store
from weft.store.policy import FAIL, OURS, THEIRS

if TYPE_CHECKING:
    from weft.store.delta import MergeAdapters
    from weft.types import Adapter

_UNTOLD = MethodFlags()


def merge(
    *revisions: str,
    name: Annotated[str | None, Parameter(name=("--name", "-n"))] = None,
    on_conflict: str | None = None,
    weights: Annotated[tuple[float, ...], Parameter(alias="-w", consume_multiple=True)] = (),
    options: MethodFlags = _UNTOLD,
    message: Message = None,
    store: Place = ".",
    json: Flag = False,
) -> None:
    """Merge branches into HEAD, all in one commit.

    What they changed apart is joined without reading a number. A tensor that
    several changed is a conflict: fail names all and changes nothing, ours and
    theirs take one side, and a method of `weft merge` merges the deltas of its
    module. For example:

        weft store merge ada bob
        weft store merge ada bob --on-conflict task-arithmetic --rank 16

    Args:
        revisions: Branches, tags or commits.
        name: Merge this adapter alone. The rest stays to be merged, so the commit has one parent.
        on_conflict: fail, ours, theirs, or a method: concat, svd, linear, ties, ... What the rules of the
            store say (key `merge` of weft-store.json) unless given, and fail where they say nothing.
        weights: One for each parent, HEAD first.
        options: What the method can be told.
        message: Message of the commit.
        store: A folder in the store.
        json: Print JSON.
    """
    policy = None if on_conflict is None else on_conflict.replace("-", "_")
    given = {key: value for key, value in vars(options).items() if value is not None}
    merger = late_merger
    if policy is not None and policy not in (FAIL, OURS, THEIRS):
        merger = merger_for(policy, given)
    elif given or (weights and policy is not None):
        flag = next(iter(given), "weights")
        raise ConfigError(f"--{flag} is for a method; --on-conflict is {on_conflict or FAIL}")
    with Store(store) as opened:
        done = opened.merge(
            *revisions,
            name=name,
            message=message,
            on_conflict=policy,
            weights=weights or None,
            options=given,
            merge_adapters=merger,
        )
    if done.commit is None:
        line = "there was nothing to merge"
    else:
        changed = ", ".join(done.adapters) or "no adapter"
        line = f"HEAD is now {done.commit[:12]}, {changed} changed"
        if done.decided:
            line += f"; {len(done.decided)} conflicts decided by {on_conflict or 'the rules of the store'}"
        if done.lost:
            line += f", relative error of the cut rank {done.lost:.2g}"
    say(done._asdict(), line, json)


def merger_for(method: str, options: Mapping[str, object]) -> "MergeAdapters":
    """`weft.merge`, once the method is known to take these options.

    Raises UnknownNameError for a method, ConfigError for one that needs data or lacks an option.
    """
    from weft.files import nearest
    from weft.merging import options_of

    known = options_of(method)
    if {"fisher", "gram"} & known.keys():
        raise ConfigError(f"{method} learns from data, which a store has not; use `weft merge`, then `add`")
    for option in options:
        if option not in known:
            raise ConfigError(f"{method} has no option {option}{nearest(option, known)}")
    return one_thread()


def late_merger(method: str, *words: Any, **options: Any) -> "Adapter":
    """`weft.merge` for methods that the rules of the store name: loaded where a conflict needs it."""
    merger = merger_for(method, {key: value for key, value in options.items() if key != "weights"})
    return merger(method, *words, **options)


def one_thread() -> "MergeAdapters":
    """`weft.merge` in one thread: the order of a sum decides its last bit."""
    import torch

    from weft.merging import merge as merge_adapters

    torch.set_num_threads(1)
    return merge_adapters
