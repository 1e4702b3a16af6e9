"""`weft store add` and `checkout`, and a way to them that costs no command-line library.

Adding an adapter should take no longer than git does, and to load the library that reads command lines takes
half as long as all the rest. So a plain line (texts alone, each option once) is read here. Any other
line, help and mistakes included, goes to the library.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import ConfigError
from weft.files import read_json
from weft.plain import json_text, plain


class _Plain(NamedTuple):
    """A verb whose plain lines are read here: what it runs, its first argument, and its options."""

    run: Callable[..., None]
    first: str
    options: Mapping[str, str]
    needed: frozenset[str]


def plain_call(tokens: Sequence[str]) -> Callable[[], None] | None:
    """What a plain line of `store` asks for; None for a line that the library has to read."""
    verb = _PLAIN.get(tokens[1]) if len(tokens) > 1 and tokens[0] == "store" else None
    if verb is None:
        return None
    values: dict[str, str] = {}
    rest = iter(tokens[2:])
    for token in rest:
        is_option = token.startswith("-")
        name = verb.options.get(token) if is_option else verb.first
        value = next(rest, "") if is_option else token
        if name is None or name in values or not value or value.startswith("-"):
            return None
        values[name] = value
    return partial(verb.run, **values) if verb.needed <= values.keys() else None


def add(
    path: str,
    name: str,
    message: str | None = None,
    lineage: str | None = None,
    store: str = ".",
    json: bool = False,
) -> None:
    """Take an adapter in, and say what became of it."""
    told = None if lineage is None else read_lineage(lineage)
    from weft.store import Store

    with Store(store) as opened:
        added = opened.add(path, name, message=message, lineage=told)
    outcome = (
        f"committed as {added.commit[:12]}" if added.commit else "staged" if message is None else "unchanged"
    )
    line = f"{name}: {outcome}, {added.written} of {added.tensors} tensors are new"
    if added.left_out:
        line += f"; not stored: {', '.join(added.left_out)}"
    say(added._asdict(), line, json)


def checkout(name: str, out: str, rev: str = "HEAD", store: str = ".", json: bool = False) -> None:
    """Write an adapter as a PEFT folder, and say where."""
    from weft.store import Store

    with Store(store) as opened:
        opened.checkout(name, out, rev=rev)
    say({"name": name, "out": str(Path(out).absolute())}, f"wrote {out}", json)


def read_lineage(path: str) -> dict[str, Any]:
    """The keys and values in a JSON file. Raises ConfigError, MissingFileError."""
    told = read_json(Path(path))
    if not isinstance(told, dict):
        raise ConfigError(f"{path} should hold keys and values, it holds {told!r:.40}")
    return told


def say(facts: dict[str, Any], line: str, json: bool) -> None:
    """Print what was done: all facts for machines, or a line for people."""
    if json:
        print(json_text(facts))
    elif line:
        print(plain(line))


_OF_ADD = {"--name": "name", "-n": "name", "--message": "message", "-m": "message", "--store": "store"}
_OF_CHECKOUT = {"--out": "out", "-o": "out", "--rev": "rev", "--store": "store"}
_PLAIN = {
    "add": _Plain(add, "path", _OF_ADD, frozenset({"path", "name"})),
    "checkout": _Plain(checkout, "name", _OF_CHECKOUT, frozenset({"name", "out"})),
}
