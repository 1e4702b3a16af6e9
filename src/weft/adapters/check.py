"""Whether an adapter is sound, and whether it fits a host."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from weft.checks import check_shapes
from weft.errors import BaseMismatchError, ShapeError, UnknownNameError, WeftError, WeightsError
from weft.files import nearest
from weft.types import Adapter, Factors, Site


def check_factors(adapter: Adapter) -> None:
    """Raise unless every site has factors of its size that are finite, alone and scaled.

    Raises ShapeError for sizes and ranks that no folder holds, WeightsError for NaN or infinity.
    """
    for site in adapter.sites:
        factors = adapter.factors[site]
        where = f"{site.path} of adapter {adapter.name}"
        check_shapes(
            where,
            factors.a_RI.shape,
            factors.b_OR.shape,
            in_features=site.in_features,
            out_features=site.out_features,
        )
        check_finite(where, factors)


def check_finite(where: str, factors: Factors, *, error: type[WeftError] = WeightsError) -> None:
    """Raise `error` where A, B, the scaling, or scaling * B in the dtype of B is not finite.

    The last is what a bank holds: one infinite number in it would make NaN of rows that do not use it.
    """
    a_RI, b_OR, scaling = factors
    largest = _largest(b_OR)
    if not (math.isfinite(scaling) and math.isfinite(largest) and math.isfinite(_largest(a_RI))):
        raise error(f"{where} holds NaN or infinity")
    if largest * abs(scaling) > torch.finfo(b_OR.dtype).max:
        raise error(
            f"{where}: a scaling of {scaling:.4g} makes {b_OR.dtype} numbers of up to {largest:.4g} infinite"
        )


def _largest(tensor: Tensor) -> float:
    """The largest magnitude; NaN where there is one."""
    low, high = torch.aminmax(tensor.detach())
    return max(-float(low), float(high))


def check_fits(adapter: Adapter, sites: Iterable[Site], fingerprint: str = "") -> None:
    """Raise unless the host has every site of the adapter, in the same size, on the same base.

    An empty fingerprint, on either side, is not compared. Raises BaseMismatchError for another base,
    UnknownNameError for a module that the host lacks (nearest one offered), ShapeError for another size.
    """
    if adapter.base and fingerprint and adapter.base != fingerprint:
        raise BaseMismatchError(
            f"adapter {adapter.name} belongs to base {adapter.base}, this one is {fingerprint}; "
            "load the base that it was made for"
        )
    known = {site.path: site for site in sites}
    for site in adapter.sites:
        if site.path not in known:
            raise UnknownNameError(
                f"adapter {adapter.name} changes {site.path}, which this model does not offer"
                f"{nearest(site.path, known)}"
            )
        there = known[site.path]
        if (site.in_features, site.out_features) != (there.in_features, there.out_features):
            raise ShapeError(
                f"adapter {adapter.name} changes {site.path} from {site.in_features} to {site.out_features} "
                f"features, this model has {there.in_features} to {there.out_features}"
            )
