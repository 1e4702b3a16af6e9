"""Laws 6 and 7 for adapters: sums, truncation and inner products speak of deltas, not of factors."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.adapters import concat, cosine, delta, inner, norm, site_at, spectrum, truncate, truncation_error
from weft.types import Adapter, Factors

SITES = (site_at("h.0.q", 7, 5), site_at("h.0.v", 3, 9), site_at("h.1.q", 7, 5))
small = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def adapters(draw: st.DrawFn) -> Adapter:
    """Any ranks (also above what the sizes can hold), scalings and subset of the sites."""
    sites = draw(st.lists(st.sampled_from(SITES), min_size=1, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    factors = {}
    for site in sites:
        rank = draw(st.integers(1, 8))
        factors[site] = Factors(
            torch.randn(rank, site.in_features, generator=generator, dtype=torch.float64),
            torch.randn(site.out_features, rank, generator=generator, dtype=torch.float64),
            draw(st.sampled_from([1.0, 0.25, -2.0, 3.3])),
        )
    return Adapter(factors)


def dense(adapter: Adapter) -> dict[str, Tensor]:
    """The slow twin: every delta written out, zeros where there is none."""
    return {
        site.path: delta(adapter.factors[site])
        if site in adapter.factors
        else torch.zeros(site.out_features, site.in_features, dtype=torch.float64)
        for site in SITES
    }


def flat(adapter: Adapter) -> Tensor:
    return torch.cat([part.flatten() for part in dense(adapter).values()])


def regauged(adapter: Adapter, seed: int) -> Adapter:
    """The same deltas from other factors: (B M, M^-1 A)."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for site, (a_RI, b_OR, scaling) in adapter.factors.items():
        rank = a_RI.shape[0]
        m = torch.randn(rank, rank, generator=generator, dtype=a_RI.dtype) + 4 * torch.eye(rank)
        factors[site] = Factors(torch.linalg.solve(m, a_RI) * scaling / 0.5, b_OR @ m, 0.5)
    return dataclasses.replace(adapter, factors=factors)


@small
@given(st.lists(st.tuples(adapters(), st.sampled_from([1.0, 0.5, -1.5, 0.0])), min_size=1, max_size=4))
def test_concat_is_the_weighted_sum_of_deltas(parts: list[tuple[Adapter, float]]) -> None:
    joined = concat([adapter for adapter, _ in parts], [weight for _, weight in parts])
    expected = torch.stack([weight * flat(adapter) for adapter, weight in parts]).sum(0)
    torch.testing.assert_close(flat(joined), expected, rtol=1e-12, atol=1e-12)
    for site, factors in joined.factors.items():
        ranks = [adapter.factors[site].a_RI.shape[0] for adapter, _ in parts if site in adapter.factors]
        assert factors.a_RI.shape[0] == sum(ranks)


@small
@given(adapters())
def test_concat_of_one_with_weight_one_is_that_adapter(adapter: Adapter) -> None:
    joined = concat([adapter], [1.0])
    assert joined.factors.keys() == adapter.factors.keys()
    for site, (a_RI, b_OR, scaling) in joined.factors.items():
        assert torch.equal(a_RI, adapter.factors[site].a_RI)
        assert torch.equal(b_OR, adapter.factors[site].b_OR)
        assert scaling == adapter.factors[site].scaling


@small
@given(adapters(), st.integers(1, 9))
def test_truncation_is_the_optimal_one(adapter: Adapter, rank: int) -> None:
    cut = truncate(adapter, rank)
    lost = total = 0.0
    for site, factors in adapter.factors.items():
        whole = delta(factors)
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert cut.factors[site].a_RI.shape[0] <= rank
        torch.testing.assert_close(delta(cut.factors[site]), best, rtol=1e-10, atol=1e-10)
        lost += float((whole - best).square().sum())
        total += float(whole.square().sum())
    assert truncation_error(adapter, rank) == pytest.approx((lost / total) ** 0.5, abs=1e-9)


@small
@given(adapters(), adapters(), st.integers(0, 2**31))
def test_inner_products_are_those_of_deltas_in_any_gauge(x: Adapter, y: Adapter, seed: int) -> None:
    expected = float(flat(x) @ flat(y))
    bound = 1e-9 * (1.0 + float(flat(x).norm() * flat(y).norm()))
    assert inner(x, y) == pytest.approx(expected, abs=bound)
    assert inner(y, x) == pytest.approx(expected, abs=bound)
    assert inner(regauged(x, seed), regauged(y, seed + 1)) == pytest.approx(expected, abs=1e3 * bound)
    assert norm(x) == pytest.approx(float(flat(x).norm()))
    assert cosine(x, y) == pytest.approx(float(torch.cosine_similarity(flat(x), flat(y), dim=0)), abs=1e-9)
    assert cosine(x, regauged(x, seed)) == pytest.approx(1.0, abs=1e-6)


@small
@given(adapters(), st.integers(1, 4), st.integers(0, 2**31))
def test_truncation_does_not_see_the_gauge(adapter: Adapter, rank: int, seed: int) -> None:
    # Factors too, not only deltas: order and sign of the singular vectors are fixed.
    other = regauged(adapter, seed)
    for site, factors in adapter.factors.items():
        mine, theirs = spectrum(factors), spectrum(other.factors[site])
        torch.testing.assert_close(mine.s_R, theirs.s_R, rtol=1e-6, atol=1e-7)
        kept = slice(0, min(rank, factors.a_RI.shape[0]))
        for left, right in ((mine.u_OR, theirs.u_OR), (mine.v_IR, theirs.v_IR)):
            overlap = (left[:, kept] * right[:, kept]).sum(0).abs()
            torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=1e-4, atol=1e-4)
    a, b = dense(truncate(adapter, rank)), dense(truncate(other, rank))
    for path in a:
        torch.testing.assert_close(a[path], b[path], rtol=1e-4, atol=1e-5)


@small
@given(adapters(), adapters())
def test_the_distance_of_equal_sums_is_zero(x: Adapter, y: Adapter) -> None:
    # x + y - y - x, at ranks far above what the sizes hold.
    nothing = concat([x, y, y, x], [1.0, 1.0, -1.0, -1.0])
    assert norm(nothing) == pytest.approx(0.0, abs=1e-5 * (norm(x) + norm(y)))
