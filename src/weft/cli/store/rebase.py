"""`weft store rebase`: an adapter from one version of the base to another."""

from typing import Annotated

from cyclopts import Parameter

from weft.cli.shared.flags import Json
from weft.cli.store import Message, Place, say
from weft.store import Store


def rebase(
    name: str,
    /,
    *,
    onto: str | None = None,
    rank: Annotated[int | None, Parameter(alias="-r")] = None,
    message: Message = None,
    store: Place = ".",
    json: Json = False,
) -> None:
    """Re-express an adapter on another version of the base, so that both compute what they did.

    What was accepted into the base is taken off the adapter, exactly: its rank
    grows by theirs. With --rank it is cut again, and the error told. For example:

        weft store rebase reverse --rank 16

    Args:
        name: The adapter.
        onto: Fingerprint of the version; the store's last one unless given.
        rank: Most rank of each site.
    """
    with Store(store) as opened:
        done = opened.rebase(name, onto=onto, rank=rank, message=message)
    line = f"{name} belongs to base {done.base} now"
    if done.commit:
        line += f", committed as {done.commit[:12]}"
    if rank is not None:
        line += f"; relative error of the cut rank {done.lost:.2g}"
    say(done._asdict(), line, json)
