import copy
import pickle

import pytest
import torch

from checked import unchecked
from weft.adapters import concat, cosine, delta, inner, save, site_at, truncate, truncation_error
from weft.errors import BaseMismatchError, ConfigError, ShapeError
from weft.types import Adapter, Bank, Factors, Mixture, Rows, Term

SITE = site_at("model.layers.3.mlp.experts.7.up_proj", 6, 4)


def adapter_of(
    *, rank: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0, **values: object
) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    a_RI = torch.randn(rank, 6, generator=generator).to(dtype)
    return Adapter({SITE: Factors(a_RI, torch.randn(4, rank, generator=generator).to(dtype), 2.0)}, **values)


def test_site_layer_is_the_first_number() -> None:
    assert (SITE.layer, SITE.module) == (3, "up_proj")
    assert site_at("lm_head", 1, 1).layer == -1
    assert site_at("transformer.h.11.attn.c_attn", 1, 1).layer == 11


def test_wrong_inputs() -> None:
    with pytest.raises(ShapeError, match="0 adapters and 0 weights"):
        concat([], [])
    with pytest.raises(ShapeError, match="2 adapters and 1 weights"):
        concat([adapter_of(), adapter_of()], [1.0])
    wider = Adapter({site_at(SITE.path, 7, 4): Factors(torch.ones(1, 7), torch.ones(4, 1), 1.0)})
    for call in (lambda x, y: concat([x, y], [1.0, 1.0]), inner, cosine):
        with pytest.raises(ShapeError, match="one module path has different sizes"):
            call(adapter_of(), wider)
        with pytest.raises(BaseMismatchError, match="different bases"):
            call(adapter_of(base="a"), adapter_of(base="b"))
    with pytest.raises(ShapeError, match="at least 1, got 0"):
        truncate(adapter_of(), 0)


def test_zero_adapters() -> None:
    zero = Adapter({SITE: Factors(torch.zeros(2, 6), torch.zeros(4, 2), 1.0)})
    assert cosine(zero, adapter_of()) == 0.0
    assert truncation_error(zero, 1) == 0.0
    assert torch.equal(delta(truncate(zero, 1).factors[SITE]), torch.zeros(4, 6))


def test_concat_keeps_base_parents_and_gradients() -> None:
    x, y = (
        adapter_of(base="weft1-a", name="x"),
        adapter_of(seed=1, name="y", provenance={"base_model": "org/m"}),
    )
    x.factors[SITE].a_RI.requires_grad_()
    joined = concat([x, y], [0.5, 2.0])
    assert joined.base == "weft1-a"
    assert joined.provenance == {
        "method": "concat",
        "parents": ["x", "y"],
        "weights": [0.5, 2.0],
        "base_model": "org/m",
    }
    delta(joined.factors[SITE]).sum().backward()
    assert x.factors[SITE].a_RI.grad is not None


def test_concat_in_low_precision_rounds_no_scale() -> None:
    x, y = adapter_of(dtype=torch.bfloat16), adapter_of(dtype=torch.bfloat16, seed=1)
    same, mixed = concat([x, y], [0.3, 0.3]).factors[SITE], concat([x, y], [0.3, 0.7]).factors[SITE]
    assert same.a_RI.dtype == same.b_OR.dtype == torch.bfloat16
    assert mixed.a_RI.dtype == mixed.b_OR.dtype == torch.float32
    expected = 0.3 * delta(x.factors[SITE]) + 0.7 * delta(y.factors[SITE])
    torch.testing.assert_close(delta(mixed), expected)


def test_truncation_keeps_dtype_small_sites_and_says_so(tmp_path: object) -> None:
    adapter = adapter_of(rank=3, dtype=torch.bfloat16, provenance={"seed": 1})
    cut = truncate(adapter, 2)
    assert cut.factors[SITE].a_RI.dtype == torch.bfloat16
    assert cut.provenance == {"seed": 1, "truncated_to_rank": 2}
    assert truncate(adapter, 3).factors[SITE] is adapter.factors[SITE]
    save(cut, f"{tmp_path}/cut")


def test_truncated_factors_are_balanced_and_sign_fixed() -> None:
    # Both halves share the singular values evenly, and equal deltas give equal factors.
    adapter = adapter_of(rank=4)
    a_RI, b_OR, scaling = adapter.factors[SITE]
    flipped = Adapter({SITE: Factors(-3.0 * a_RI, b_OR / -3.0, scaling)})
    cut, other = truncate(adapter, 2).factors[SITE], truncate(flipped, 2).factors[SITE]
    torch.testing.assert_close(cut.a_RI @ cut.a_RI.mT, cut.b_OR.mT @ cut.b_OR)
    torch.testing.assert_close(cut.a_RI, other.a_RI)
    torch.testing.assert_close(cut.b_OR, other.b_OR)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_an_adapter_is_copied_and_pickled(copied: object) -> None:
    adapter = adapter_of(name="a", base="b", provenance={"seed": 1})
    for one in (adapter, Bank.stack([adapter]), Bank.stack([adapter])[0]):
        assert repr(copied(one)) == repr(one)
    again = copied(adapter)
    assert torch.equal(again.factors[SITE].a_RI, adapter.factors[SITE].a_RI)
    assert again.factors[SITE].scaling == 2.0
    assert again.provenance == {"seed": 1}


def test_a_notebook_shows_no_numbers() -> None:
    adapters = [adapter_of(rank=4, name=f"a{k}") for k in range(9)]
    assert repr(adapters[0]) == "Adapter('a0', rank=4, sites=1, base='')"
    bank = Bank.stack(adapters)
    assert repr(bank) == "Bank(['a0', 'a1', 'a2', ...], adapters=9, sites=1, base='')"
    assert "tensor([[" not in repr(Mixture.rows(bank, [0, None]))


@pytest.mark.parametrize(
    "index", [torch.tensor([0.0, 1.0]), torch.tensor([True, False]), torch.tensor(0), torch.tensor([[0, 1]])]
)
def test_rows_take_whole_numbers_one_each(index: torch.Tensor) -> None:
    bank = Bank.stack([adapter_of(), adapter_of(seed=1)])
    with pytest.raises(ShapeError, match="one adapter index each"):
        unchecked(Mixture.rows, bank, index)
    with pytest.raises(TypeError, match="float"):
        unchecked(Mixture.rows, bank, [0.5, 0.9])  # weights, which would be cut to 0
    (term,) = unchecked(Mixture.rows, bank, torch.tensor([0, 1], dtype=torch.uint8)).terms
    assert term.gate.index_B.dtype == torch.long


def test_what_is_no_mixture_is_refused() -> None:
    bank = Bank.stack([adapter_of(), adapter_of(seed=1)])
    for weight in (torch.ones(2), torch.ones(1, 1, 1, 2)):
        with pytest.raises(ShapeError, match="a row of them for each of the batch"):
            unchecked(Mixture.dense, bank, weight)
    with pytest.raises(ConfigError, match="combine is sum or average, got 'mean'"):
        unchecked(Term.__init__, object.__new__(Term), bank, Rows(torch.tensor([0])), "mean")
    with pytest.raises(ConfigError, match=r"got a str; weft.load reads"):
        unchecked(Mixture.of, "weft/letters-adapters/reverse")
    with pytest.raises(TypeError, match="slice"):
        unchecked(bank.__getitem__, slice(0, 1))
