"""Every method against explicit loops over dense deltas in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from merge_cases import Q0, Q1, SITES, UP0, dense, fisher_for, gram_for, make_adapter, three
from torch import Tensor

from weft.merging import merge
from weft.types import Adapter, Factors, Site

WEIGHTS = [0.5, 0.3, 0.2]
FULL = 9
"""A rank that cuts nothing, so that only the method is tested."""


def close(merged: Adapter, expected: Callable[[Site], Tensor], atol: float = 1e-9) -> None:
    for site in merged.sites:
        torch.testing.assert_close(dense(merged, site), expected(site), rtol=0, atol=atol)


def entries(site: Site) -> list[tuple[int, int]]:
    return [(o, i) for o in range(site.out_features) for i in range(site.in_features)]


def by_entry(site: Site, value: Callable[[int, int], float]) -> Tensor:
    out = torch.zeros(site.out_features, site.in_features, dtype=torch.float64)
    for o, i in entries(site):
        out[o, i] = value(o, i)
    return out


def keep_largest(numbers: list[float], count: int, skip: int = 0) -> set[int]:
    """Places of the `count` largest magnitudes after the `skip` largest."""
    order = sorted(range(len(numbers)), key=lambda place: -abs(numbers[place]))
    return set(order[skip : skip + count])


def elect_and_average(values: list[float], weights: list[float]) -> float:
    sign = 1.0 if sum(w * v for w, v in zip(weights, values, strict=True)) >= 0 else -1.0
    agree = [(w, v) for w, v in zip(weights, values, strict=True) if v * sign > 0]
    return sum(w * v for w, v in agree) / sum(w for w, _ in agree) if agree else 0.0


def weighted(adapters: list[Adapter], weights: list[float]) -> Callable[[Site], Tensor]:
    def total(site: Site) -> Tensor:
        return by_entry(
            site, lambda o, i: sum(w * dense(a, site)[o, i] for a, w in zip(adapters, weights, strict=True))
        )

    return total


@pytest.mark.parametrize("method", ["concat", "linear"])
def test_exact_sums(method: str) -> None:
    merged = merge(method, three(), weights=WEIGHTS)
    close(merged, weighted(three(), WEIGHTS))
    assert merged.factors[Q0].a_RI.shape[0] == 1 + 2 + 4
    assert merged.provenance["truncation_error"] == {"total": 0.0, "sites": {}}


@pytest.mark.parametrize("method", ["svd", "linear"])
def test_truncation_is_the_best_of_its_rank(method: str) -> None:
    merged = merge(method, three(), weights=WEIGHTS, rank=3)
    whole = weighted(three(), WEIGHTS)
    lost = total = 0.0
    for site in SITES:
        u, s, vh = torch.linalg.svd(whole(site))
        expected = u[:, :3] @ torch.diag(s[:3]) @ vh[:3]
        torch.testing.assert_close(dense(merged, site), expected, rtol=0, atol=1e-9)
        error = float((whole(site) - expected).norm() / whole(site).norm())
        assert merged.provenance["truncation_error"]["sites"].get(site.path, 0.0) == pytest.approx(error)
        lost, total = lost + float(s[3:].square().sum()), total + float(s.square().sum())
    assert merged.provenance["truncation_error"]["total"] == pytest.approx(math.sqrt(lost / total))


def test_svd_has_the_largest_rank_of_its_sources() -> None:
    assert merge("svd", three()).rank == max(adapter.rank for adapter in three())


def test_task_arithmetic_negates_and_scales() -> None:
    merged = merge("task_arithmetic", three(), weights=[1.0, -1.0, 0.5], scaling=0.7)
    close(merged, weighted(three(), [0.7, -0.7, 0.35]))


def test_peft_linear_adds_factors() -> None:
    adapters = [make_adapter(seed, scaling=s) for seed, s in ((1, 2.0), (2, 0.5), (3, 1.0))]
    weights = [0.5, -0.8, 0.2]

    def expected(site: Site) -> Tensor:
        a = b = 0
        for adapter, w in zip(adapters, weights, strict=True):
            c = w * adapter.factors[site].scaling
            a = a + math.sqrt(abs(c)) * (1 if c > 0 else -1) * adapter.factors[site].a_RI
            b = b + math.sqrt(abs(c)) * adapter.factors[site].b_OR
        return b @ a

    close(merge("peft_linear", adapters, weights=weights), expected)


@pytest.mark.parametrize("trim", ["adapter", "tensor"])
@pytest.mark.parametrize("density", [0.07, 0.4, 1.0])
def test_ties(trim: str, density: float) -> None:
    adapters = three()
    kept: list[dict[tuple[Site, int, int], float]] = []
    for adapter in adapters:
        groups = [adapter.sites] if trim == "adapter" else [(site,) for site in adapter.sites]
        kept.append({})
        for group in groups:
            keys = [(site, o, i) for site in group for o, i in entries(site)]
            numbers = [float(dense(adapter, site)[o, i]) for site, o, i in keys]
            chosen = keep_largest(numbers, max(1, round(density * len(keys))))
            kept[-1] |= {key: numbers[place] for place, key in enumerate(keys) if place in chosen}

    def expected(site: Site) -> Tensor:
        return by_entry(
            site, lambda o, i: 1.5 * elect_and_average([k.get((site, o, i), 0.0) for k in kept], WEIGHTS)
        )

    close(
        merge("ties", adapters, weights=WEIGHTS, density=density, trim=trim, scaling=1.5, rank=FULL),
        expected,
        1e-7,
    )


def test_magnitude_prune_and_breadcrumbs() -> None:
    adapters = three()

    def expected(density: float, gamma: float) -> Callable[[Site], Tensor]:
        def of_site(site: Site) -> Tensor:
            size = len(entries(site))
            out = torch.zeros(size, dtype=torch.float64)
            for adapter, w in zip(adapters, WEIGHTS, strict=True):
                numbers = dense(adapter, site).flatten().tolist()
                for place in keep_largest(numbers, round(density * size), round(gamma * size)):
                    out[place] += w * numbers[place]
            return out.view(site.out_features, site.in_features)

        return of_site

    pruned = merge("magnitude_prune", adapters, weights=WEIGHTS, density=0.3, rank=FULL)
    close(pruned, expected(0.3, 0.0), 1e-7)
    crumbs = merge("breadcrumbs", adapters, weights=WEIGHTS, density=0.5, gamma=0.1, rank=FULL)
    close(crumbs, expected(0.5, 0.1), 1e-7)
    close(
        merge("breadcrumbs", adapters, weights=WEIGHTS, density=0.3, gamma=0.0, rank=FULL),
        expected(0.3, 0.0),
        1e-7,
    )


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare(method: str) -> None:
    adapters, density = three(), 0.6
    chance = torch.Generator().manual_seed(7)
    masks = {
        s: torch.rand(3, s.out_features, s.in_features, generator=chance) < density for s in sorted(SITES)
    }

    def expected(site: Site) -> Tensor:
        def value(o: int, i: int) -> float:
            values = [
                float(dense(a, site)[o, i]) / density if masks[site][k, o, i] else 0.0
                for k, a in enumerate(adapters)
            ]
            if method == "dare_ties":
                return elect_and_average(values, WEIGHTS)
            return sum(w * v for w, v in zip(WEIGHTS, values, strict=True))

        return by_entry(site, value)

    close(merge(method, adapters, weights=WEIGHTS, density=density, seed=7, rank=FULL), expected, 1e-7)


def test_dare_keeps_the_share_and_the_mean() -> None:
    site = UP0.__class__("wide", -1, "wide", 200, 200)
    adapter = Adapter({site: Factors(torch.ones(1, 200), torch.ones(200, 1), 1.0)})
    merged = dense(merge("dare_linear", [adapter], density=0.3, seed=1, rank=200), site)
    share = float((merged.abs() > 1e-4).double().mean())
    assert share == pytest.approx(0.3, abs=0.01)
    assert float(merged.mean()) == pytest.approx(1.0, abs=0.03)


def test_della() -> None:
    adapters, density, epsilon = three(), 0.6, 0.3
    chance = torch.Generator().manual_seed(3)
    draws = {s: torch.rand(3, s.out_features, s.in_features, generator=chance) for s in sorted(SITES)}

    def expected(site: Site) -> Tensor:
        def value(o: int, i: int) -> float:
            values = []
            for k, adapter in enumerate(adapters):
                row = dense(adapter, site)[o].tolist()
                smaller = sum(abs(x) < abs(row[i]) for x in row)
                p = density - epsilon + 2 * epsilon * smaller / (len(row) - 1)
                values.append(row[i] / p if draws[site][k, o, i] < p else 0.0)
            return elect_and_average(values, WEIGHTS)

        return by_entry(site, value)

    merged = merge("della", adapters, weights=WEIGHTS, density=density, epsilon=epsilon, seed=3, rank=FULL)
    close(merged, expected, 1e-7)


@pytest.mark.parametrize("trim", ["adapter", "tensor"])
def test_knots(trim: str) -> None:
    adapters, density = three(), 0.4
    # As in the paper: an SVD of the dense deltas side by side.
    bases, parts = {}, {}
    for site in sorted(SITES):
        u, s, vh = torch.linalg.svd(torch.cat([dense(a, site) for a in adapters], 1), full_matrices=False)
        keep = s > 1e-6 * s[0]
        bases[site] = u[:, keep]
        parts[site] = (torch.diag(s[keep]) @ vh[keep]).split(site.in_features, dim=1)
    limits: list[dict[Site, float]] = []
    for k, adapter in enumerate(adapters):
        of_site = {site: sorted(parts[site][k].abs().flatten().tolist())[::-1] for site in adapter.sites}
        everything = sorted((x for numbers in of_site.values() for x in numbers), reverse=True)
        groups = {site: everything if trim == "adapter" else numbers for site, numbers in of_site.items()}
        limits.append({s: group[round(density * len(group)) - 1] for s, group in groups.items()})

    def expected(site: Site) -> Tensor:
        merged = torch.zeros_like(parts[site][0])
        for r in range(merged.shape[0]):
            for i in range(merged.shape[1]):
                values = []
                for k in range(3):
                    x = float(parts[site][k][r, i])
                    values.append(x if abs(x) >= limits[k].get(site, math.inf) * (1 - 1e-9) else 0.0)
                merged[r, i] = elect_and_average(values, WEIGHTS)
        return bases[site] @ merged

    merged = merge("knots", adapters, weights=WEIGHTS, density=density, trim=trim)
    close(merged, expected, 1e-7)
    assert merged.provenance["truncation_error"]["total"] == 0.0


@pytest.mark.parametrize("normalize", [True, False])
def test_fisher(normalize: bool) -> None:
    adapters = three()
    diagonals = fisher_for(adapters)
    diagonals[1][Q0][0, 0] = 0.0  # held up by the floor
    means = []
    for of_sites in diagonals:
        numbers = [x for f in of_sites.values() for x in f.flatten().tolist()]
        means.append(sum(numbers) / len(numbers) if normalize else 1.0)

    def expected(site: Site) -> Tensor:
        def value(o: int, i: int) -> float:
            above = below = 0.0
            for k, adapter in enumerate(adapters):
                f = max(float(diagonals[k][site][o, i]) / means[k], 1e-6)
                above += WEIGHTS[k] * f * float(dense(adapter, site)[o, i])
                below += WEIGHTS[k] * f
            return above / below

        return by_entry(site, value)

    close(
        merge("fisher", adapters, weights=WEIGHTS, fisher=diagonals, normalize=normalize, rank=FULL),
        expected,
        1e-7,
    )


def test_fisher_of_b_under_a_shared_a_is_exact_and_low_rank() -> None:
    one, two = make_adapter(1, scaling=2.0), make_adapter(2)
    two = Adapter({s: Factors(one.factors[s].a_RI, f.b_OR, f.scaling) for s, f in two.factors.items()})
    diagonals = [
        {s: torch.rand(a.factors[s].b_OR.shape, dtype=torch.float64) + 0.1 for s in SITES} for a in (one, two)
    ]

    def expected(site: Site) -> Tensor:
        (a_RI, b_one, s_one), (_, b_two, s_two) = one.factors[site], two.factors[site]
        f_one, f_two = diagonals[0][site], diagonals[1][site]
        return (f_one * s_one * b_one + f_two * s_two * b_two) / (f_one + f_two) @ a_RI

    merged = merge("fisher", [one, two], fisher=diagonals, normalize=False)
    close(merged, expected)
    assert merged.rank == one.rank


@pytest.mark.parametrize("off_diagonal", [0.9, 1.0, 0.0])
def test_regmean(off_diagonal: float) -> None:
    adapters = three()
    grams = gram_for(adapters)

    def expected(site: Site) -> Tensor:
        eye = torch.eye(site.in_features, dtype=torch.float64)
        left = torch.zeros(site.out_features, site.in_features, dtype=torch.float64)
        right = torch.zeros_like(eye)
        for k, adapter in enumerate(adapters):
            g = grams[k][site] * (eye + off_diagonal * (1 - eye))
            g = WEIGHTS[k] * (g + 1e-6 * grams[k][site].diagonal().mean() * eye)
            left += dense(adapter, site) @ g
            right += g
        return left @ torch.linalg.inv(right)

    merged = merge("regmean", adapters, weights=WEIGHTS, gram=grams, off_diagonal=off_diagonal)
    close(merged, expected)


def test_regmean_is_the_least_squares_over_all_inputs() -> None:
    # What the formula is for: no other matrix is nearer to every adapter's outputs on its own inputs.
    adapters = [make_adapter(seed, sites=(Q0,)) for seed in (1, 2)]
    chance = torch.Generator().manual_seed(0)
    x = [torch.randn(30, 6, generator=chance).double() for _ in adapters]
    grams = [{Q0: x_TI.mT @ x_TI} for x_TI in x]
    merged = merge("regmean", adapters, gram=grams, off_diagonal=1.0, ridge=1e-12)
    outputs = torch.cat([x_TI @ dense(a, Q0).mT for a, x_TI in zip(adapters, x, strict=True)])
    best = torch.linalg.lstsq(torch.cat(x), outputs).solution.mT
    torch.testing.assert_close(dense(merged, Q0), best, rtol=0, atol=1e-8)


def test_slerp() -> None:
    one, two = three()[:2]

    def expected(site: Site) -> Tensor:
        x, y, t = dense(one, site).flatten(), dense(two, site).flatten(), 0.25
        if not y.any():
            return ((1 - t) * x).view(site.out_features, site.in_features)
        angle = math.acos(float(x @ y / x.norm() / y.norm()))
        arc = (math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle)
        return arc.view(site.out_features, site.in_features)

    close(merge("slerp", [one, two], weights=[3.0, 1.0]), expected)


def test_slerp_keeps_the_length_where_a_line_does_not() -> None:
    one, two = make_adapter(1, sites=(Q1,)), make_adapter(2, sites=(Q1,))
    scaled = float(dense(one, Q1).norm() / dense(two, Q1).norm())
    two = Adapter({Q1: two.factors[Q1]._replace(scaling=scaled)})
    assert dense(merge("slerp", [one, two]), Q1).norm() == pytest.approx(float(dense(one, Q1).norm()))
    same = merge("slerp", [one, one])
    torch.testing.assert_close(dense(same, Q1), dense(one, Q1))
