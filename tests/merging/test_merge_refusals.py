"""Bad input: one clear line, before any work."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from merge_cases import Q0, SITES, UP0, fisher_for, gram_for, make_adapter, three

from weft.adapters import site_at
from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError, WeftError, WeightsError
from weft.merging import METHODS, merge, options_of
from weft.types import Adapter, Factors


def damaged(value: float) -> Adapter:
    adapter = make_adapter(1, name="broken")
    adapter.factors[UP0].a_RI[0, 0] = value
    return adapter


def unlike(site_values: tuple[str, int, int]) -> Adapter:
    site = site_at(*site_values)
    return Adapter({site: Factors(torch.ones(1, site.in_features), torch.ones(site.out_features, 1), 1.0)})


ADAPTERS: dict[str, tuple[list[Adapter], type[WeftError], str]] = {
    "none": ([], ShapeError, "there are no adapters to merge"),
    "no sites": ([Adapter({})], ShapeError, "change no module"),
    "bases": (
        [make_adapter(1, base="weft1-a", name="x"), make_adapter(2, base="weft1-b", name="y")],
        BaseMismatchError,
        "different bases: x is for weft1-a, y for weft1-b",
    ),
    "sizes": (
        [make_adapter(1), unlike((Q0.path, 7, 5))],
        ShapeError,
        r"q_proj has different sizes in two adapters: \(5, 6\) and \(5, 7\)",
    ),
    "shapes": (
        [Adapter({Q0: Factors(torch.ones(2, 6), torch.ones(5, 3), 1.0)}, name="x")],
        ShapeError,
        r"q_proj of adapter x: A is \(2, 6\) and B is \(5, 3\), expected",
    ),
    "nan": ([damaged(math.nan)], WeightsError, "up_proj of adapter broken holds NaN or infinity"),
    "inf": ([damaged(math.inf)], WeightsError, "up_proj of adapter broken holds NaN or infinity"),
    "scaling": ([make_adapter(1, scaling=math.nan)], WeightsError, "holds NaN or infinity"),
}
WEIGHTS: dict[str, tuple[Any, type[WeftError], str]] = {
    "too few": ([0.5], ShapeError, "1 weights for 3 adapters"),
    "too many": ([0.5] * 4, ShapeError, "4 weights for 3 adapters"),
    "nan": ([0.5, math.nan, 0.5], ConfigError, "not all finite"),
    "layer": ({0: [1.0, 1.0, 1.0]}, ShapeError, "no weights for layer 1"),
    "of one layer": ({0: [1.0, 1.0, 1.0], 1: [1.0]}, ShapeError, "1 weights for 3 adapters"),
    "layers": (torch.ones(3, 1), ShapeError, "reach layers 0 to 0, the adapters change layers 0 to 1"),
    "rows": (torch.ones(2, 2), ShapeError, "2 weights for 3 adapters"),
}
OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": ("ties", {"densty": 0.5}, r"ties has no option densty \(did you mean density\?\)"),
    "none": ("concat", {"rank": 2}, "concat has no option rank; it takes none"),
    "missing": ("dare_linear", {}, "dare_linear needs the option density"),
    "text": ("ties", {"density": "0.5"}, "density is '0.5', it should be of type float"),
    "nan": ("ties", {"scaling": math.nan}, "scaling is nan, it should be a finite number"),
    "flag": ("svd", {"rank": True}, "rank is True"),
    "rank": ("svd", {"rank": 0}, "rank is 0, it should be between 1"),
    "dense rank": ("ties", {"rank": -1}, "rank is -1"),
    "huge rank": ("linear", {"rank": 10**6}, "rank is 1000000"),
    "trim": ("ties", {"trim": "layer"}, "trim is 'layer'"),
    "knots trim": ("knots", {"trim": "layer"}, "trim is 'layer'"),
    "seed": ("dare_ties", {"density": 0.5, "seed": -1}, "seed is -1"),
    "della seed": ("della", {"density": 0.5, "seed": -1}, "seed is -1"),
    "epsilon": ("della", {"density": 0.9, "epsilon": 0.2}, "epsilon is 0.2; with density 0.9"),
    "negative epsilon": ("della", {"density": 0.5, "epsilon": -0.1}, "epsilon is -0.1"),
    "gamma": ("breadcrumbs", {"density": 0.9, "gamma": 0.2}, "gamma is 0.2"),
    "floor": ("fisher", {"fisher": fisher_for(three()), "floor": 0.0}, "floor is 0.0"),
    "ridge": ("regmean", {"gram": gram_for(three()), "ridge": 0.0}, "ridge is 0.0"),
    "diagonal": ("regmean", {"gram": gram_for(three()), "off_diagonal": 1.5}, "off_diagonal is 1.5"),
}


@pytest.mark.parametrize("case", ADAPTERS)
@pytest.mark.parametrize("method", ["linear", "ties", "fisher"])
def test_adapters(case: str, method: str) -> None:
    adapters, error, message = ADAPTERS[case]
    options = {"fisher": []} if method == "fisher" else {}
    with pytest.raises(error, match=message):
        merge(method, adapters, **options)


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case: str) -> None:
    weights, error, message = WEIGHTS[case]
    with pytest.raises(error, match=message):
        merge("linear", three(), weights=weights)


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str) -> None:
    method, options, message = OPTIONS[case]
    with pytest.raises(ConfigError, match=message):
        merge(method, three(), **options)


@pytest.mark.parametrize("density", [0.0, -0.2, 1.1])
@pytest.mark.parametrize("method", [m for m in METHODS if "density" in options_of(m)])
def test_density_outside_the_unit_interval(method: str, density: float) -> None:
    with pytest.raises(ConfigError, match=f"density is {density}, it should be above 0 and at most 1"):
        merge(method, three(), density=density)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "knots", "fisher", "regmean"])
@pytest.mark.parametrize("weights", [[1.0, -0.5, 1.0], [0.0, 0.0, 0.0]])
def test_averages_refuse_weights_that_are_no_shares(method: str, weights: list[float]) -> None:
    options: dict[str, Any] = {"density": 0.5} if method in ("dare_ties", "della") else {}
    options |= {"fisher": fisher_for(three())} if method == "fisher" else {}
    options |= {"gram": gram_for(three())} if method == "regmean" else {}
    with pytest.raises(ConfigError, match=f"{method} averages by the weights"):
        merge(method, three(), weights=weights, **options)


def test_an_unknown_method_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no merge method tis \(did you mean ties\?\); there are"):
        merge("tis", three())


def test_methods_that_cannot_take_what_differs_say_so() -> None:
    with pytest.raises(ShapeError, match=r"adds factors, which needs equal ranks; .*up_proj has \[3, 4\]"):
        merge("peft_linear", [make_adapter(1), make_adapter(3, rank=3)])
    for adapters in (three(), three()[:1]):
        with pytest.raises(ShapeError, match="slerp goes from one adapter to another"):
            merge("slerp", adapters)


def test_fisher_diagonals_that_do_not_fit() -> None:
    adapters, good = three(), fisher_for(three())
    cases: list[tuple[Any, type[WeftError], str]] = [
        (good[:2], ShapeError, "2 mappings of Fisher diagonals for 3 adapters"),
        ([{}, *good[1:]], ShapeError, "of adapter-1 lack model.layers.0.mlp.up_proj"),
        ([{**good[0], Q0: torch.ones(5, 5)}, *good[1:]], ShapeError, r"is \(5, 5\), expected \(5, 6\)"),
        ([{**good[0], Q0: -torch.ones(5, 6)}, *good[1:]], WeightsError, "finite and not negative"),
        ([{**good[0], Q0: torch.full((5, 6), math.nan)}, *good[1:]], WeightsError, "finite and not negative"),
        ([{s: 0 * f for s, f in good[0].items()}, *good[1:]], WeightsError, "zero everywhere"),
        ([{**good[0], Q0: torch.ones(5, 2)}, *good[1:]], ShapeError, "of B for one adapter and of the delta"),
        (
            [{**of, Q0: torch.ones(5, 2)} for of in good],
            ShapeError,
            "needs one A for all adapters",
        ),
    ]
    for fisher, error, message in cases:
        with pytest.raises(error, match=message):
            merge("fisher", adapters, fisher=fisher)


def test_gram_matrices_that_do_not_fit() -> None:
    adapters, good = three(), gram_for(three())
    cases: list[tuple[Any, type[WeftError], str]] = [
        (good[:2], ShapeError, "2 mappings of Gram matrices for 3 adapters"),
        ([{}, *good[1:]], ShapeError, "of adapter-1 lack model.layers.0.mlp.up_proj"),
        ([{**good[0], Q0: torch.ones(5, 5)}, *good[1:]], ShapeError, r"is \(5, 5\), expected \[I, I\]"),
        ([{**good[0], Q0: -torch.eye(6)}, *good[1:]], WeightsError, r"no X\^T X"),
        ([{**of, Q0: 2 * torch.ones(6, 6) - torch.eye(6)} for of in good], WeightsError, r"no X\^T X"),
        ([{**good[0], Q0: torch.zeros(6, 6)}, *good[1:]], WeightsError, r"no X\^T X"),
        ([{**good[0], Q0: torch.full((6, 6), math.nan)}, *good[1:]], WeightsError, r"no X\^T X"),
    ]
    for gram, error, message in cases:
        with pytest.raises(error, match=message):
            merge("regmean", adapters, gram=gram)


def test_zero_adapters_merge_to_zero() -> None:
    zero = Adapter({s: Factors(f.a_RI, 0 * f.b_OR, 1.0) for s, f in make_adapter(1).factors.items()})
    for method in METHODS:
        if method in ("fisher", "regmean"):
            continue
        options = {"density": 0.5} if "density" in options_of(method) else {}
        merged = merge(method, [zero, zero], **options)
        assert merged.provenance["truncation_error"]["total"] == 0.0
        assert all(not (merged.factors[s].b_OR @ merged.factors[s].a_RI).any() for s in SITES)


def test_names_of_bases_that_differ() -> None:
    """PEFT's folders carry no fingerprint; a merge would claim one of the two bases."""
    names = ("mistralai/Mistral-7B-v0.1", "meta-llama/Llama-2-7b-hf")
    adapters = [
        replace(make_adapter(k, name="xy"[k]), peft_config={"base_model_name_or_path": name})
        for k, name in enumerate(names)
    ]
    with pytest.raises(
        BaseMismatchError, match=r"x is for mistralai/Mistral-7B-v0\.1, y for meta-llama/Llama"
    ):
        merge("linear", adapters)
