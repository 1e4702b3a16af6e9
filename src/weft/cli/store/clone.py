"""`weft store clone`: a store from elsewhere, or a few of its adapters."""

from typing import Annotated

from cyclopts import Parameter

from weft.cli.shared.flags import Flag, Json
from weft.cli.store import say
from weft.store.clone import clone as clone_store


def clone(
    url: str,
    folder: str,
    /,
    *,
    filter: Flag = False,
    adapter: Annotated[tuple[str, ...], Parameter(alias="-n", consume_multiple=True)] = (),
    json: Json = False,
) -> None:
    """Clone a store, or one adapter of a thousand.

    With --filter, tensors come when they are asked for: those of the adapters
    named here now, others at `weft store checkout`. For example:

        weft store clone https://example.org/store.git store --filter --adapter reverse

    Args:
        url: The repository, as `git clone` takes it.
        folder: A folder that is new or empty.
        filter: Leave in the remote what is not needed now.
        adapter: Adapters whose files should lie in the working folder.
    """
    made = clone_store(url, folder, adapter, filter=filter)
    line = f"cloned {made.store}: {len(made.here)} of {made.adapters} adapters are in the working folder"
    if filter and not made.filtered:
        line += "; the server does not filter, so everything was fetched"
    say(made._asdict(), line, json)
