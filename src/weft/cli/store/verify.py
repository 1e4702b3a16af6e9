"""`weft store verify`: every commit checked, recipes run again on request."""

from weft.cli.shared.flags import Flag, Json
from weft.cli.store import Place, say
from weft.errors import ConfigError, WeightsError
from weft.plain import plain
from weft.store import Store


def verify(*, replay: Flag = False, base: str | None = None, store: Place = ".", json: Json = False) -> None:
    """Check every commit: hashes, names, headers, numbers, manifests, signatures.

    Args:
        replay: Run the recipes of merges by a method, rebases and stacks again, and compare to the bit.
        base: The base that the store began with, for --replay to fold its versions again: a folder, a hub id,
            or a model that ships with Weft.
    """
    if base is not None and not replay:
        raise ConfigError("--base is what --replay folds again; give both")
    with Store(store) as opened:
        found = opened.verify()
        root = opened.root
        again = opened.replay(base) if replay else None
    problems, facts, lines = list(found.problems), found._asdict(), []
    if again is not None:
        facts |= {"replayed": again.recipes, "gone": again.gone}
        problems += again.problems
        facts["problems"] = tuple(problems)
        lines = [f"{again.recipes} recipes run again", *again.gone]
    say(facts, "", json)
    if not json:
        states = ", ".join(f"{count} {state}" for state, count in found.signatures.items())
        print(f"{found.commits} commits, {found.adapters} versions of adapters, {found.tensors} tensors read")
        print(f"signatures of commits: {states}")
        for tag, state in found.tags.items():
            print(f"signature of tag {plain(tag)}: {state}")
        if found.missing:
            print(f"{found.missing} objects are in the remote alone and were not checked")
        for line in (*lines, *problems):
            print(plain(line))
    if problems:
        raise WeightsError(f"{root} has {len(problems)} problems; the first: {problems[0]}")
