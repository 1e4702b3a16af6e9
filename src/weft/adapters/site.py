"""A site from a module path, so that folders and hosts name the same matrix alike."""

from weft.types import Site


def site_at(path: str, in_features: int, out_features: int) -> Site:
    """The site at a dotted module path; its layer is the first part that is a number, else -1.

    The first, because experts and heads number themselves inside a layer (`layers.3.mlp.experts.7.up_proj`).
    """
    parts = path.split(".")
    layer = next((int(part) for part in parts if part.isdecimal()), -1)
    return Site(path, layer, parts[-1], in_features, out_features)
