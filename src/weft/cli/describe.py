"""`weft describe`: say what an adapter does."""

from weft.cli.shared.flags import Json
from weft.cli.shared.screen import print_json, print_pairs


def describe(
    adapter: str,
    /,
    *descriptions: str,
    json: Json = False,
) -> None:
    """Write into an adapter's folder what it does, so that routers can choose it.

    Its weights and its config are not touched. Without a description, the ones that
    it has are shown. For example:

        weft describe downloads/poet "write a poem about the topic"

    Args:
        adapter: Adapter folder, whoever made it.
        descriptions: What it does, in words; several ways to say it make it easier to find.
    """
    from weft.adapters import describe as write
    from weft.adapters import descriptions_of, load

    found = write(adapter, descriptions) if descriptions else load(adapter)
    facts = {"path": adapter, "name": found.name, "description": list(descriptions_of(found))}
    print_json(facts) if json else print_pairs(facts)
