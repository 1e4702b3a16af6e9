"""`weft store merge`: branches into one, unattended."""

from typing import Annotated

from cyclopts import Parameter

from weft.cli.merge import MethodFlags
from weft.cli.shared.flags import Json
from weft.cli.store import Message, Place, say
from weft.errors import ConfigError
from weft.store import Store
from weft.store.store_file import FAIL, OURS, THEIRS

_UNTOLD = MethodFlags()


def merge(
    *revisions: str,
    name: Annotated[str | None, Parameter(name=("--name", "-n"))] = None,
    on_conflict: str | None = None,
    weights: Annotated[tuple[float, ...], Parameter(alias="-w", consume_multiple=True)] = (),
    options: MethodFlags = _UNTOLD,
    message: Message = None,
    store: Place = ".",
    json: Json = False,
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
    """
    given = {key: value for key, value in vars(options).items() if value is not None}
    is_method = on_conflict not in (None, FAIL, OURS, THEIRS)
    if not is_method and (given or (weights and on_conflict is not None)):
        flag = next(iter(given), "weights")
        raise ConfigError(f"--{flag} is for a method; --on-conflict is {on_conflict or FAIL}")
    with Store(store) as opened:
        done = opened.merge(
            *revisions,
            name=name,
            message=message,
            on_conflict=on_conflict,
            weights=weights or None,
            options=given,
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
