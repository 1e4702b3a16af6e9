"""`weft pull`: fetch a model ahead of its first use."""

from weft.cli.shared.flags import Flag
from weft.cli.shared.screen import print_pairs
from weft.errors import UnknownNameError
from weft.files import embedded_folder, nearest, resolve
from weft.registry import NAMED


def pull(name: str, /, *, print_path: Flag = False) -> None:
    """Fetch a named model into the user's cache, checked and converted.

    For example:

        weft pull weft/smollm2
        weft chat --base weft/smollm2

    Args:
        name: A name that `weft list` shows.
        print_path: Print the folder alone.
    """
    if name in NAMED:
        from weft.host.fetch import fetch_model

        folder = fetch_model(NAMED[name])
        pairs = {"model": NAMED[name].about, "licence": NAMED[name].licence, "folder": folder}
    else:
        found = resolve(name) if name.startswith("weft/") else None
        if found is None or not found.is_relative_to(embedded_folder()):
            raise UnknownNameError(f"no model {name}{nearest(name, NAMED)}; weft list shows those there are")
        folder = found
        pairs = {"model": f"{name} ships with Weft", "folder": folder}
    print(folder) if print_path else print_pairs(pairs)
