import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.adapters import cosine, inner, site_at
from weft.embed import cosines, inner_products
from weft.errors import BaseMismatchError, ShapeError, WeightsError
from weft.types import Adapter, Bank, Factors, Site

Q = site_at("model.layers.0.self_attn.q_proj", 6, 5)
UP = site_at("model.layers.1.mlp.up_proj", 4, 7)
SITES = (Q, UP)


def random_adapter(seed: int, *, rank: int = 2, sites: tuple[Site, ...] = SITES, base: str = "") -> Adapter:
    chance = torch.Generator().manual_seed(seed)
    factors = {}
    for site in sites:
        a_RI = torch.randn(rank, site.in_features, generator=chance, dtype=torch.float64)
        b_OR = torch.randn(site.out_features, rank, generator=chance, dtype=torch.float64)
        factors[site] = Factors(a_RI, b_OR, 0.5 + seed % 3)
    return Adapter(factors, base=base, name=f"adapter-{seed}")


def mixed(first: int, count: int) -> list[Adapter]:
    """Adapters of different ranks, some without a site."""
    return [
        random_adapter(seed, rank=1 + seed % 3, sites=SITES[: 1 + seed % 2])
        for seed in range(first, first + count)
    ]


def flat(adapter: Adapter) -> Tensor:
    """All deltas, dense, laid end to end."""
    parts = []
    for site in SITES:
        delta = torch.zeros(site.out_features, site.in_features, dtype=torch.float64)
        if site in adapter.factors:
            a_RI, b_OR, scaling = adapter.factors[site]
            delta = scaling * b_OR @ a_RI
        parts.append(delta.flatten())
    return torch.cat(parts)


def slow_cosines(xs: list[Adapter], ys: list[Adapter], centre: bool) -> Tensor:
    mean = torch.stack([flat(y) for y in ys]).mean(0) if centre else 0.0
    rows = []
    for x in xs:
        row = []
        for y in ys:
            u, v = flat(x) - mean, flat(y) - mean
            row.append(u @ v / (u.norm() * v.norm()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("centre", [False, True])
def test_cosines_are_those_of_the_dense_deltas(centre: bool) -> None:
    xs, ys = mixed(0, 3), mixed(3, 5)
    torch.testing.assert_close(
        cosines(xs, ys, centre=centre), slow_cosines(xs, ys, centre), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(cosines(ys, centre=centre), slow_cosines(ys, ys, centre), atol=1e-12, rtol=0)


def test_inner_products_are_those_of_single_pairs() -> None:
    xs, ys = mixed(0, 3), mixed(3, 4)
    wanted = torch.tensor([[inner(x, y) for y in ys] for x in xs], dtype=torch.float64)
    torch.testing.assert_close(inner_products(xs, Bank.stack(ys)), wanted, atol=1e-11, rtol=0)
    assert float(cosines(xs, ys)[1, 2]) == pytest.approx(cosine(xs[1], ys[2]), abs=1e-12)


def test_stored_numbers_are_not_rounded_again() -> None:
    library = []
    for seed, dtype in ((1, torch.bfloat16), (2, torch.float32), (4, torch.bfloat16)):
        factors = {
            site: Factors(a_RI.to(dtype), b_OR.to(dtype), 0.3)
            for site, (a_RI, b_OR, _) in random_adapter(seed).factors.items()
        }
        library.append(Adapter(factors, name=f"adapter-{seed}"))
    wanted = torch.tensor([[inner(x, y) for y in library] for x in library], dtype=torch.float64)
    torch.testing.assert_close(inner_products(library, library), wanted, atol=1e-12, rtol=1e-12)


def test_adapters_that_learn_are_compared_without_gradient() -> None:
    bank = Bank.stack(mixed(0, 3))
    learning = Bank(bank.names, {s: a.requires_grad_() for s, a in bank.a.items()}, bank.b)
    for other in (None, mixed(3, 2)):
        assert not cosines(learning, other, centre=True).requires_grad


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    xs, ys = mixed(0, 5), mixed(5, 3)
    whole = inner_products(xs, ys)
    monkeypatch.setattr("weft.embed.adapters._BLOCK", 1)
    torch.testing.assert_close(inner_products(xs, ys), whole, atol=1e-12, rtol=0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, 3), centre=st.booleans())
def test_the_gauge_of_the_factors_does_not_matter(seed: int, rank: int, centre: bool) -> None:
    library = [random_adapter(seed + k, rank=rank) for k in range(4)]
    chance = torch.Generator().manual_seed(seed)
    turned = []
    for adapter in library:
        factors = {}
        for site, (a_RI, b_OR, scaling) in adapter.factors.items():
            m_RR = torch.randn(rank, rank, generator=chance, dtype=torch.float64)
            m_RR += 3 * torch.eye(rank, dtype=torch.float64) * m_RR.norm()
            factors[site] = Factors(torch.linalg.solve(m_RR, a_RI) * 4, b_OR @ m_RR, scaling / 4)
        turned.append(Adapter(factors, name=adapter.name))
    torch.testing.assert_close(
        cosines(turned, centre=centre), cosines(library, centre=centre), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(cosines(turned, library).diagonal(), torch.ones(4, dtype=torch.float64))


def test_centring_takes_the_shared_part_off() -> None:
    shared = random_adapter(99, rank=3)
    library = []
    for seed in range(4):
        own = random_adapter(seed, rank=1)
        factors = {
            site: Factors(
                torch.cat([10 * shared.factors[site].a_RI, own.factors[site].a_RI]),
                torch.cat([shared.factors[site].b_OR, own.factors[site].b_OR], 1),
                1.0,
            )
            for site in SITES
        }
        library.append(Adapter(factors, name=own.name))
    off = ~torch.eye(4, dtype=torch.bool)
    assert float(cosines(library)[off].min()) > 0.9
    assert float(cosines(library, centre=True)[off].max()) < 0.5


def test_what_points_nowhere_has_cosine_zero() -> None:
    one = random_adapter(1)
    zero = Adapter({Q: Factors(torch.randn(2, 6).double(), torch.zeros(5, 2).double(), 1.0)}, name="zero")
    assert cosines([one, zero]).tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]
    assert cosines([one, one, one], centre=True).abs().max() == 0.0


def test_wrong_libraries_are_refused() -> None:
    with pytest.raises(ShapeError, match="the library is empty"):
        cosines([])
    with pytest.raises(BaseMismatchError, match="a and b"):
        cosines([random_adapter(1, base="a")], [random_adapter(2, base="b")])
    wide = site_at(Q.path, 8, 5)
    with pytest.raises(ShapeError, match="different sizes"):
        cosines([random_adapter(1)], [random_adapter(2, sites=(wide,))])
    broken = random_adapter(3)
    broken.factors[UP].b_OR[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="up_proj of adapter adapter-3 holds NaN"):
        cosines([random_adapter(1), broken])
