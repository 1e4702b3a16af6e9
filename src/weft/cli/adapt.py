"""`weft adapt`: a description in, an adapter out."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weft.cli.shared.flags import Flag
from weft.cli.shared.model import HYPERNETWORK, open_hypernetwork, told_reach
from weft.cli.shared.screen import print_json, print_pairs


def adapt(
    description: str,
    /,
    *,
    output_dir: Annotated[Path, Parameter(alias="-o")],
    hypernetwork: Annotated[str, Parameter(name="--with")] = HYPERNETWORK,
    name: str | None = None,
    json: Flag = False,
) -> None:
    """Make an adapter from a description, and save it as a PEFT folder.

    For example:

        weft adapt "sort the letters from z to a" -o out/

    Args:
        description: What the model should do, in words.
        output_dir: Folder to write; an adapter that is there is replaced, anything else is refused.
        hypernetwork: The hypernetwork that makes it: a folder, or one that ships with Weft.
        name: Name of the adapter; made from the description unless given.
        json: Print JSON.
    """
    # Imported here, as in every verb: torch takes seconds, and help and wrong usage should not.
    from weft.adapters import norm, save

    hyper = open_hypernetwork(hypernetwork)
    start = time.perf_counter()
    adapter = hyper.adapt(description, name=name)
    seconds = time.perf_counter() - start
    save(adapter, output_dir)
    made = {
        "path": str(output_dir),
        "name": adapter.name,
        "base": adapter.base,
        "sites": len(adapter.sites),
        "rank": adapter.rank,
        "norm": float(norm(adapter)),
        "seconds": round(seconds, 3),
    } | told_reach(hyper, description)
    print_json(made) if json else print_pairs(made)
