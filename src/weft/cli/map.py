"""`weft map`: a picture of a library of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from weft.cli.shared.flags import Flag, Output
from weft.cli.shared.kinds import adapters_in
from weft.cli.shared.screen import print_json, print_pairs
from weft.errors import ConfigError, MissingFileError
from weft.files import replace_file, resolve, to_json

if TYPE_CHECKING:
    from torch import Tensor

    from weft.types import Adapter


def map_library(
    library: str,
    /,
    *,
    output: Output = Path("map.png"),
    by: Literal["adapter", "description"] = "adapter",
    strict: Flag = False,
    json: Flag = False,
) -> None:
    """Draw a library of adapters: which are alike, in which clusters.

    Writes a picture, and beside it a .json: place, cluster and three nearest ones of each
    adapter. For example:

        weft map weft/letters-adapters -o letters.png

    Args:
        library: A folder of adapter folders.
        output: Picture to write, a PNG; the numbers go beside it.
        by: What is compared: the changes that adapters make, or the descriptions that they were made for.
        strict: End at an adapter that cannot be read; else it is named and left out.
        json: Print the JSON as well.
    """
    # Imported here, as in every verb: torch takes seconds, and help and wrong usage should not.
    if output.suffix != ".png":
        raise ConfigError(f"the picture is a PNG, {output} should end in .png")
    place = resolve(library)
    folders = [] if place is None else adapters_in(place)
    if not folders:
        raise MissingFileError(f"no adapter folders in {library}")

    from weft.adapters import load_each
    from weft.adapters.card import base_model
    from weft.embed import cosines, lay_out, plan_to_dict
    from weft.plot.map import draw_map

    adapters = list(load_each(folders, strict=strict).values())
    cosine_KK = cosines(adapters) if by == "adapter" else _described(adapters)
    laid = lay_out([adapter.name for adapter in adapters], cosine_KK.numpy())
    base = base_model(adapters[0]) or adapters[0].base
    what = "what they change" if by == "adapter" else "their descriptions"
    title = f"{len(adapters)} adapters{f' of {base}' if base else ''}, by {what}"
    facts = {"library": library, "base": base, "by": by, **plan_to_dict(laid)}
    draw_map(laid, output, title=title)
    replace_file(output.with_suffix(".json"), to_json(facts))
    if json:
        print_json(facts)
        return
    print_pairs(
        {
            "picture": output,
            "numbers": output.with_suffix(".json"),
            **{
                f"around {cluster['centre']}": [
                    adapter["name"]
                    for adapter in facts["adapters"]
                    if adapter["cluster"] == cluster["cluster"]
                ]
                for cluster in facts["clusters"]
            },
        }
    )


def _described(adapters: Sequence[Adapter]) -> Tensor:
    """Cosines of the sentence vectors of what adapters were made for."""
    import torch
    from torch.nn.functional import normalize

    from weft.adapters import descriptions_of
    from weft.embed import SentenceEncoder
    from weft.types import Description

    missing = [adapter.name for adapter in adapters if not descriptions_of(adapter)]
    if missing:
        raise ConfigError(
            f"{len(missing)} adapters have no description, {missing[0]} is one; weft describe gives it one, "
            "or map them by adapter"
        )
    cues = [[Description(text) for text in descriptions_of(adapter)] for adapter in adapters]
    encoder = SentenceEncoder()
    e_KD = torch.stack([normalize(encoder.encode(of_one).double(), dim=-1).mean(0) for of_one in cues])
    e_KD = normalize(e_KD, dim=-1)
    return e_KD @ e_KD.mT
