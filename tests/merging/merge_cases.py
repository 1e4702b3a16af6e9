"""Adapters to merge, and what their deltas are in float64."""

import torch
from torch import Tensor

from weft.adapters import site_at
from weft.types import Adapter, Factors, Site

Q0 = site_at("model.layers.0.self_attn.q_proj", 6, 5)
UP0 = site_at("model.layers.0.mlp.up_proj", 6, 9)
Q1 = site_at("model.layers.1.self_attn.q_proj", 6, 5)
SITES = (Q0, UP0, Q1)


def make_adapter(
    seed: int,
    *,
    rank: int = 2,
    scaling: float = 1.0,
    sites: tuple[Site, ...] = SITES,
    dtype: torch.dtype = torch.float64,
    **values: object,
) -> Adapter:
    """Random factors; the rank grows by one from site to site."""
    chance = torch.Generator().manual_seed(seed)
    factors = {}
    for place, site in enumerate(sites):
        a_RI = torch.randn(rank + place, site.in_features, generator=chance, dtype=torch.float64)
        b_OR = torch.randn(site.out_features, rank + place, generator=chance, dtype=torch.float64)
        factors[site] = Factors(a_RI.to(dtype), b_OR.to(dtype), scaling)
    return Adapter(factors, **{"name": f"adapter-{seed}", **values})


def three(dtype: torch.dtype = torch.float64) -> list[Adapter]:
    """Three adapters whose ranks, scalings and sites all differ."""
    return [
        make_adapter(1, rank=1, scaling=2.0, dtype=dtype),
        make_adapter(2, rank=2, scaling=0.5, sites=(Q0, UP0), dtype=dtype),
        make_adapter(3, rank=3, scaling=-1.0, sites=(Q1, Q0), dtype=dtype),
    ]


def dense(adapter: Adapter, site: Site) -> Tensor:
    """One delta in float64; zeros where the adapter lacks the site."""
    if site not in adapter.factors:
        return torch.zeros(site.out_features, site.in_features, dtype=torch.float64)
    a_RI, b_OR, scaling = adapter.factors[site]
    return scaling * b_OR.double() @ a_RI.double()


def turned(adapter: Adapter, seed: int = 0) -> Adapter:
    """The same deltas from other factors: (B M, M^-1 A) with a random M."""
    chance = torch.Generator().manual_seed(seed)
    factors = {}
    for site, (a_RI, b_OR, scaling) in adapter.factors.items():
        rank = a_RI.shape[0]
        m_RR = torch.randn(rank, rank, generator=chance, dtype=torch.float64) + 2 * torch.eye(rank)
        a = torch.linalg.solve(m_RR, a_RI.double())
        factors[site] = Factors(a.to(a_RI.dtype), (b_OR.double() @ m_RR).to(b_OR.dtype), scaling)
    return Adapter(factors, base=adapter.base, name=adapter.name)


def fisher_for(adapters: list[Adapter], seed: int = 0) -> list[dict[Site, Tensor]]:
    """Random positive diagonals [O, I] at every site, other scales for other adapters."""
    chance = torch.Generator().manual_seed(seed)
    return [
        {s: (k + 1) * torch.rand(s.out_features, s.in_features, generator=chance).double() for s in SITES}
        for k in range(len(adapters))
    ]


def gram_for(adapters: list[Adapter], seed: int = 0) -> list[dict[Site, Tensor]]:
    """X^T X of forty random inputs at every site."""
    chance = torch.Generator().manual_seed(seed)
    made = []
    for _ in adapters:
        x = {s: torch.randn(40, s.in_features, generator=chance).double() for s in SITES}
        made.append({s: x_TI.mT @ x_TI for s, x_TI in x.items()})
    return made


def options_for(method: str, adapters: list[Adapter]) -> dict[str, object]:
    """What a method needs to run, chosen so that it really prunes and draws."""
    match method:
        case "dare_linear" | "dare_ties" | "breadcrumbs" | "magnitude_prune":
            return {"density": 0.6}
        case "della":
            return {"density": 0.6, "epsilon": 0.2}
        case "ties" | "knots":
            return {"density": 0.4}
        case "fisher":
            return {"fisher": fisher_for(adapters)}
        case "regmean":
            return {"gram": gram_for(adapters)}
        case _:
            return {}


def lossless_for(method: str, adapters: list[Adapter]) -> dict[str, object]:
    """Options under which one adapter should come back as it was."""
    if method == "breadcrumbs":
        return {"density": 1.0, "gamma": 0.0}
    if method == "della":
        return {"density": 1.0, "epsilon": 0.0}
    if method in ("dare_linear", "dare_ties", "magnitude_prune", "ties", "knots"):
        return {"density": 1.0}
    return options_for(method, adapters)
