"""Whether an adapter fits a host."""

from collections.abc import Iterable

from weft.errors import BaseMismatchError, ShapeError, UnknownNameError
from weft.files import nearest
from weft.types import Adapter, Site


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
