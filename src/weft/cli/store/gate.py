"""`weft store gate`: whether a contribution may be merged."""

from typing import Annotated

from cyclopts import Parameter

from weft.cli.shared.flags import Json
from weft.cli.store import Place, say
from weft.store import Store


def gate(
    revision: str,
    /,
    *,
    evaluate: Annotated[str | None, Parameter(name="--eval")] = None,
    store: Place = ".",
    json: Json = False,
) -> None:
    """Check a branch before it is merged: exits with 0 when all is well.

    The store must verify, the bases must agree, and the command must exit with
    0 for every adapter that the branch changes. For example:

        weft store gate contribution --eval "python evaluate.py --adapter {}"

    Args:
        revision: The branch, on which a contribution waits.
        evaluate: A command; {} is the adapter's folder. It is run without a shell.
    """
    with Store(store) as opened:
        found = opened.gate(revision, evaluate)
    line = f"{revision} passes: {', '.join(found.changed) or 'no adapter'} changed"
    if found.removed:
        line += f"; removes {', '.join(found.removed)}"
    if found.elsewhere:
        line += f"; also changes {', '.join(found.elsewhere)}"
    say(found._asdict(), line, json)
