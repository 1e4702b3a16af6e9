"""`weft store verify`: every commit checked, merges done again on request."""

from weft.cli.flags import Flag
from weft.cli.store import Place, say
from weft.errors import WeightsError
from weft.store import Store


def verify(*, replay: Flag = False, store: Place = ".", json: Flag = False) -> None:
    """Check every commit: hashes, names, headers, numbers, manifests, signatures.

    Args:
        replay: Do every merge by a method again from its recipe, and compare to the bit.
        store: A folder in the store.
        json: Print JSON.
    """
    again = None
    with Store(store) as opened:
        found = opened.verify()
        root = opened.root
        if replay:
            from weft.cli.store.merge import one_thread

            again = opened.replay(one_thread())
    problems, facts, lines = list(found.problems), found._asdict(), []
    if again is not None:
        facts |= {"replayed": again.merges, "gone": again.gone}
        problems += again.problems
        facts["problems"] = tuple(problems)
        lines = [f"{again.merges} merges done again", *again.gone]
    say(facts, "", json)
    if not json:
        states = ", ".join(f"{count} {state}" for state, count in found.signatures.items())
        print(f"{found.commits} commits, {found.adapters} versions of adapters, {found.tensors} tensors read")
        print(f"signatures of commits: {states}")
        for tag, state in found.tags.items():
            print(f"signature of tag {tag}: {state}")
        if found.missing:
            print(f"{found.missing} objects are in the remote alone and were not checked")
        for line in (*lines, *problems):
            print(line)
    if problems:
        raise WeightsError(f"{root} has {len(problems)} problems; the first: {problems[0]}")
