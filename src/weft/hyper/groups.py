"""Sites in the order in which a hypernetwork emits them: one group per module type and size.

The order depends on nothing but the sites themselves, so ids of layers, roles and groups are the same in
every process.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from weft.errors import ShapeError
from weft.types import Site


@dataclass(frozen=True, slots=True)
class Group:
    """Sites of one module type and one size: they share a head and are emitted by one matrix product."""

    name: str
    in_features: int
    out_features: int
    sites: tuple[Site, ...]


def group_sites(sites: Iterable[Site]) -> tuple[Group, ...]:
    """Groups sorted by name, each with its sites sorted by layer, then path.

    A module type whose sizes differ between layers gets one group per size.
    Raises ShapeError when there is no site, or one path twice.
    """
    ordered = sorted(sites, key=lambda s: (s.module, s.in_features, s.out_features, s.layer, s.path))
    if not ordered:
        raise ShapeError("a hypernetwork needs at least one site to make adapters for")
    if len({site.path for site in ordered}) < len(ordered):
        raise ShapeError("one module path stands twice among the sites")
    groups: dict[tuple[str, int, int], list[Site]] = {}
    for site in ordered:
        groups.setdefault((site.module, site.in_features, site.out_features), []).append(site)
    return tuple(
        Group(f"{module}_{i}x{o}", i, o, tuple(members)) for (module, i, o), members in groups.items()
    )


def role_of(site: Site) -> str:
    """The site's path with its layer index blanked: `model.layers.*.self_attn.q_proj`.

    Unlike the module type it tells attention's `q_proj` from cross-attention's, and one expert from the next.
    """
    parts = site.path.split(".")
    if str(site.layer) in parts:
        parts[parts.index(str(site.layer))] = "*"
    return ".".join(parts)
