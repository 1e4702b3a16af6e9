"""What a network that writes adapters has made, before it is a bank."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from weft.types import Bank, Site

Made = dict[Site, tuple[Float[Tensor, "B R I"], Float[Tensor, "B O R"]]]
"""A and B of every site, one of each per cue, before scaling."""


def bank_of(
    made: Mapping[Site, tuple[Tensor, Tensor]], names: Sequence[str], scaling: float, base: str = ""
) -> Bank:
    """One adapter per cue, the scaling folded into B; gradients flow on."""
    a = {site: a_BRI for site, (a_BRI, _) in made.items()}
    return Bank(tuple(names), a, {site: b_BOR * scaling for site, (_, b_BOR) in made.items()}, base)
