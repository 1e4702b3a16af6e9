"""`weft store stack`: an adapter as another one and new columns."""

from weft.cli.shared.flags import Json
from weft.cli.store import Message, Name, Place, read_lineage, say_added
from weft.store import Store


def stack(
    parent: str,
    path: str,
    /,
    *,
    name: Name,
    message: Message = None,
    lineage: str | None = None,
    store: Place = ".",
    json: Json = False,
) -> None:
    """Take in an adapter that begins with another one's ranks; only its new columns are stored.

    Such an adapter comes of training new columns while those of the parent are
    frozen. For example:

        weft store stack reverse ../wider --name reverse-wide -m "Two more columns"

    Args:
        parent: The adapter in the store that it begins with.
        path: A PEFT folder, whose first ranks are the parent's to the bit.
        name: Name of the adapter in the store; the parent's own makes its next version.
        lineage: A JSON file with recipe, data, metrics, licence, author: any of them.
    """
    keys = None if lineage is None else read_lineage(lineage)
    with Store(store) as opened:
        added = opened.stack(parent, path, name, message=message, lineage=keys)
    say_added(added, f"{parent} with {added.written} new pieces in {added.tensors} tensors", message, json)
