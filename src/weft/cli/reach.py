"""`weft reach`: what a hypernetwork knows, and whether a description is near it."""

from __future__ import annotations

from typing import Any

from weft.cli.shared.flags import Flag, Json
from weft.cli.shared.model import HYPERNETWORK, open_hypernetwork
from weft.cli.shared.screen import print_json, print_pairs
from weft.errors import ConfigError
from weft.files import embedded_folder, read_json, replace_file, resolve, to_json


def reach_of_network(
    hypernetwork: str = HYPERNETWORK,
    description: str | None = None,
    /,
    *,
    learn: Flag = False,
    json: Json = False,
) -> None:
    """Say whether a description is in a hypernetwork's reach, and what it knows nearby.

    A network keeps the main descriptions that it was trained on, and how near to
    one of them a description must be. One that was trained before networks kept
    this learns it from its own recipe. For example:

        weft reach weft/letters-t2l "turn the word around"
        weft reach runs/my-t2l/hypernetwork --learn

    Args:
        hypernetwork: A folder, or one that ships with Weft.
        description: What the model should do, in words.
        learn: Learn it from the tasks of the network's recipe, and keep it in the folder's config.json.
    """
    from weft.hyper import reach

    hyper = open_hypernetwork(hypernetwork)
    facts: dict[str, Any] = {"hypernetwork": hyper.name}
    if learn:
        hyper.provenance["reach"] = _learn(hypernetwork, hyper)
    kept = hyper.provenance.get("reach")
    if kept is None:
        raise ConfigError(
            f"{hyper.name} keeps no descriptions that it knows; --learn finds them by its recipe"
        )
    facts |= {"knows": len(kept["known"]), "threshold": kept["threshold"]}
    if description is not None:
        found = reach(hyper, description)
        assert found is not None
        facts |= {"similarity": round(found.similarity, 3), "in reach": found.is_within}
        facts["nearest"] = list(found.nearest)
    print_json(facts) if json else print_pairs(facts)


def _learn(name: str, hyper: Any) -> dict[str, Any]:
    """The reach, by the recipe that the network keeps; written into its folder's config alone."""
    from weft.config import Config, parse_config
    from weft.saved import CONFIG
    from weft.tasks.source import Data, load_split
    from weft.train.reach import reach_of

    class Kept(Config, extra="ignore"):
        """What every network that reads descriptions keeps of its recipe."""

        data: Data

    recipe = hyper.provenance.get("recipe")
    if recipe is None:
        raise ConfigError(f"{hyper.name} keeps no recipe, so its training tasks are not known")
    data = parse_config(Kept, recipe, f"the recipe that {hyper.name} keeps").data
    found = reach_of(hyper, load_split(data, "train"))
    if found is None:
        raise ConfigError(f"{hyper.name} reads names, or its tasks keep no wording to measure by")
    folder = resolve(name)
    assert folder is not None
    if folder.is_relative_to(embedded_folder()) and not (embedded_folder().parent / ".git").exists():
        raise ConfigError(f"{name} ships with Weft and is not written to; copy the folder first")
    values = read_json(folder / CONFIG)
    values["provenance"]["reach"] = found
    replace_file(folder / CONFIG, to_json(values))
    return found
