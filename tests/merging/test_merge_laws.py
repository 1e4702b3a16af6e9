"""Laws of every method: identity, gauge, permutation, determinism, low precision, layers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_cases import (
    Q0,
    Q1,
    SITES,
    dense,
    fisher_for,
    gram_for,
    lossless_for,
    make_adapter,
    options_for,
    three,
    turned,
)
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from tiny_models import make_llama
from weft.adapters import concat, load, save
from weft.host import Host
from weft.merging import METHODS, merge
from weft.merging.low_rank import refactor
from weft.merging.threshold import kth_largest
from weft.types import Adapter, Bank, Factors, Mixture

# PEFT asks an old name of transformers when it wraps a model.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RANDOM = ("dare_linear", "dare_ties", "della")
PEFT_CONFIGS = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "rank_pattern": {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2, "down_proj": 6}},
    "alpha_pattern": {"r": 4, "lora_alpha": 3, "alpha_pattern": {"v_proj": 16}},
}


def pair() -> list[Adapter]:
    return [make_adapter(1, scaling=2.0), make_adapter(2, scaling=0.5)]


def sources_for(method: str) -> list[Adapter]:
    """Three adapters that differ in everything, or what a method can take instead."""
    if method == "peft_linear":
        return [make_adapter(seed, scaling=seed / 2) for seed in (1, 2, 3)]
    return pair() if method == "slerp" else three()


def assert_same_deltas(one: Adapter, other: Adapter, atol: float = 1e-8) -> None:
    assert one.sites == other.sites
    for site in one.sites:
        torch.testing.assert_close(dense(one, site), dense(other, site), rtol=0, atol=atol)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "slerp"])
@pytest.mark.parametrize("weights", [None, [1.0]])
def test_one_adapter_comes_back(method: str, weights: list[float] | None) -> None:
    adapter = make_adapter(3, rank=2, scaling=-1.7)
    merged = merge(method, [adapter], weights=weights, **lossless_for(method, [adapter]))
    assert_same_deltas(merged, adapter)
    assert merged.provenance["truncation_error"]["total"] == 0.0


@pytest.fixture(scope="module")
def of_peft(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Adapter, torch.Tensor]]:
    """By kind: an adapter that PEFT made, and the logits that PEFT gives with it."""

    def make(kind: str) -> tuple[Adapter, torch.Tensor]:
        folder = tmp_path_factory.mktemp("peft") / kind
        model = get_peft_model(make_llama(), LoraConfig(**PEFT_CONFIGS[kind], target_modules="all-linear"))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(str(folder))
        with torch.no_grad():
            return load(folder), model(ids()).logits

    return make


def ids() -> torch.Tensor:
    return torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", PEFT_CONFIGS)
def test_one_adapter_gives_the_logits_that_peft_gives(
    kind: str, of_peft: Callable[[str], tuple[Adapter, torch.Tensor]], pico_host: Host
) -> None:
    adapter, expected = of_peft(kind)
    plain = pico_host(ids()).logits
    assert (expected - plain).abs().max() > 0.1, "the adapter should do something"
    for method in METHODS:
        if method in ("slerp", "fisher", "regmean"):  # two adapters, or data; test_one_adapter_comes_back
            continue
        merged = merge(method, [adapter], weights=[1.0], **lossless_for(method, [adapter]))
        logits = pico_host(ids(), Mixture.of(merged)).logits
        close = 2e-5 if method == "knots" else 1e-5  # its factors are turned, so they round elsewhere
        assert float((logits - expected).abs().max()) <= close * float(expected.abs().max()), method


def test_a_merged_folder_gives_the_same_logits_in_peft(
    pico_host: Host, pico_llama: LlamaForCausalLM, pico_bank: Callable[..., Bank], tmp_path: object
) -> None:
    bank = pico_bank(3, 2)
    for method, options in (("ties", {"density": 0.5, "rank": 3}), ("concat", {})):
        merged = merge(method, [bank[k] for k in range(3)], weights=[0.5, 0.3, 0.2], **options)
        folder = f"{tmp_path}/{method}"
        save(merged, folder)
        peer = PeftModel.from_pretrained(make_llama(), folder)
        with torch.no_grad():
            expected = peer(ids()).logits
        torch.testing.assert_close(pico_host(ids(), Mixture.of(merged)).logits, expected, rtol=0, atol=1e-4)
        assert load(folder).provenance["truncation_error"] == merged.provenance["truncation_error"]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "peft_linear"])
def test_other_factors_of_the_same_deltas_merge_alike(method: str) -> None:
    # peft_linear is left out because it adds factors; the next test shows what that costs.
    adapters = sources_for(method)
    options = options_for(method, adapters)
    merged = merge(method, adapters, **options)
    assert_same_deltas(merge(method, [turned(a, k) for k, a in enumerate(adapters)], **options), merged)


def test_peft_linear_depends_on_the_factors_as_documented() -> None:
    adapters = sources_for("peft_linear")
    one, other = (
        merge("peft_linear", x) for x in (adapters, [turned(a) for a in adapters[:1]] + adapters[1:])
    )
    assert float((dense(one, Q0) - dense(other, Q0)).norm()) > 0.1


@pytest.mark.parametrize("method", [m for m in METHODS if m not in RANDOM])
def test_the_order_of_adapters_changes_nothing(method: str) -> None:
    adapters, weights = sources_for(method), [0.5, 0.3, 0.2]
    order = [1, 0] if method == "slerp" else [2, 0, 1]
    options = options_for(method, adapters)
    changed = {k: [v[i] for i in order] if k in ("fisher", "gram") else v for k, v in options.items()}
    merged = merge(method, adapters, weights=weights[: len(adapters)], **options)
    other = merge(method, [adapters[i] for i in order], weights=[weights[i] for i in order], **changed)
    assert_same_deltas(other, merged)


@pytest.mark.parametrize("method", METHODS)
def test_equal_calls_give_equal_bytes(method: str) -> None:
    adapters = sources_for(method)
    one, other = (merge(method, adapters, **options_for(method, adapters)) for _ in range(2))
    for site in one.sites:
        assert torch.equal(one.factors[site].a_RI, other.factors[site].a_RI)
        assert torch.equal(one.factors[site].b_OR, other.factors[site].b_OR)
    assert one.provenance == other.provenance


@pytest.mark.parametrize("method", RANDOM)
def test_the_seed_decides(method: str) -> None:
    options = options_for(method, three())
    torch.manual_seed(1)
    one, other = (merge(method, three(), seed=4, **options) for _ in range(2))
    assert torch.equal(one.factors[Q0].b_OR, other.factors[Q0].b_OR), "not the global generator"
    assert not torch.equal(merge(method, three(), seed=5, **options).factors[Q0].b_OR, one.factors[Q0].b_OR)


@pytest.mark.parametrize("method", METHODS)
def test_float32_and_bfloat16(method: str) -> None:
    wide = sources_for(method)
    for dtype, out in ((torch.float32, torch.float32), (torch.bfloat16, None)):
        narrow = [
            Adapter({s: Factors(f.a_RI.to(dtype), f.b_OR.to(dtype), f.scaling) for s, f in a.factors.items()})
            for a in wide
        ]
        exact = [
            Adapter({s: Factors(f.a_RI.double(), f.b_OR.double(), f.scaling) for s, f in a.factors.items()})
            for a in narrow
        ]
        options = options_for(method, wide)
        merged, expected = merge(method, narrow, **options), merge(method, exact, **options)
        for site in merged.sites:
            assert merged.factors[site].a_RI.dtype in (out or dtype, torch.float32)
            error = (dense(merged, site) - dense(expected, site)).norm() / dense(expected, site).norm()
            assert float(error) < 1e-5


@pytest.mark.parametrize("form", ["mapping", "tensor"])
@pytest.mark.parametrize("method", ["linear", "ties", "knots", "slerp", "fisher", "regmean", "peft_linear"])
def test_weights_per_layer_are_those_of_each_layer(method: str, form: str) -> None:
    adapters = pair()
    options = lossless_for(method, adapters)
    by_layer = {0: [0.9, 0.1], 1: [0.2, 0.8]}
    weights = by_layer if form == "mapping" else torch.tensor([[0.9, 0.2], [0.1, 0.8]], dtype=torch.float64)
    merged = merge(method, adapters, weights=weights, **options)
    for layer, of_layer in by_layer.items():
        alone = merge(method, adapters, weights=of_layer, **options)
        for site in (s for s in SITES if s.layer == layer):
            torch.testing.assert_close(dense(merged, site), dense(alone, site), rtol=0, atol=1e-9)
    assert merged.provenance["weights"] == {"0": [0.9, 0.1], "1": [0.2, 0.8]}


def test_equal_adapters_merge_to_themselves() -> None:
    adapter = make_adapter(5)
    for method in ("ties", "knots", "fisher", "regmean", "slerp", "linear"):
        merged = merge(method, [adapter, adapter], **lossless_for(method, [adapter, adapter]))
        assert_same_deltas(merged, adapter)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_linear_equals_concat_then_truncation(count: int, rank: int, seed: int) -> None:
    adapters = [make_adapter(seed + k, rank=1 + k % 3, scaling=0.5 + k) for k in range(count)]
    weights = [(-1.0) ** k / (k + 1) for k in range(count)]
    merged = merge("linear", adapters, weights=weights, rank=rank)
    whole = concat(adapters, weights)
    for site in SITES:
        u, s, vh = torch.linalg.svd(dense(whole, site), full_matrices=False)
        best = u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]
        error = float((dense(merged, site) - best).norm() / dense(whole, site).norm())
        assert error <= 1e-5


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_refactoring_is_the_truncated_svd(rows: int, columns: int, rank: int, seed: int) -> None:
    rank = min(rank, rows, columns)
    delta_OI = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()
    factors, lost = refactor(delta_OI, rank, torch.float64)
    u, s, vh = torch.linalg.svd(delta_OI, full_matrices=False)
    best = u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]
    torch.testing.assert_close(factors.b_OR @ factors.a_RI, best, rtol=0, atol=1e-6)
    assert lost == pytest.approx(float((delta_OI - best).norm() / delta_OI.norm()), abs=2e-7)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=8), min_size=1, max_size=4
    )
)
def test_the_kth_magnitude_is_that_of_a_sorted_list(lists: list[list[float]]) -> None:
    ordered = sorted((abs(x) for numbers in lists for x in numbers), reverse=True)
    for k in range(1, len(ordered) + 1):
        assert kth_largest(lambda: iter([torch.tensor(x) for x in lists]), k) == ordered[k - 1]


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = three()
    methods = [m for m in METHODS if m not in RANDOM]
    methods = [m for m in methods if m not in ("peft_linear", "slerp")]
    whole = {m: merge(m, adapters, **options_for(m, adapters)) for m in methods}
    monkeypatch.setattr("weft.merging.dense._BLOCK", 40)  # two rows at a time
    for method in methods:
        assert_same_deltas(merge(method, adapters, **options_for(method, adapters)), whole[method])


def test_the_card_tells_how_it_was_made(tmp_path: object) -> None:
    adapters = [
        make_adapter(1, base="weft1-a", name="one", provenance={"base_model": "org/m"}),
        make_adapter(2, name="two"),
    ]
    merged = merge("ties", adapters, weights=[0.6, 0.4], rank=1)
    assert (merged.base, merged.name) == ("weft1-a", "ties")
    told = dict(merged.provenance)
    error = told.pop("truncation_error")
    assert told == {
        "method": "ties",
        "parents": ["one", "two"],
        "weights": [0.6, 0.4],
        "options": {"density": 0.2, "trim": "adapter", "scaling": 1.0, "rank": 1},
        "base_model": "org/m",
    }
    assert 0 < error["total"] < 1
    assert set(error["sites"]) <= {site.path for site in SITES}
    save(merged, f"{tmp_path}/merged")
    assert load(f"{tmp_path}/merged").provenance["truncation_error"] == error


def test_sources_are_left_alone() -> None:
    adapters = three()
    before = [{s: (f.a_RI.clone(), f.b_OR.clone()) for s, f in a.factors.items()} for a in adapters]
    for method in METHODS:
        if method not in ("peft_linear", "slerp"):
            options = {**options_for(method, adapters)}
            if method == "fisher":
                options["fisher"] = fisher_for(adapters)
            if method == "regmean":
                options["gram"] = gram_for(adapters)
            merge(method, adapters, **options)
    for adapter, kept in zip(adapters, before, strict=True):
        for site, (a_RI, b_OR) in kept.items():
            assert torch.equal(adapter.factors[site].a_RI, a_RI)
            assert torch.equal(adapter.factors[site].b_OR, b_OR)


def test_a_site_that_one_adapter_lacks_counts_as_zero_there() -> None:
    merged = merge("linear", three(), weights=[1.0, 1.0, 1.0])
    torch.testing.assert_close(dense(merged, Q1), dense(three()[0], Q1) + dense(three()[2], Q1))
