from __future__ import annotations

import pytest
import torch

from tiny_models import make_bank
from weft.errors import ShapeError
from weft.host import kernels
from weft.host.plan import contribution, make_plan
from weft.types import Dense, Rows, Tokens, TopK

K, RANK, SIZE = 4, 8, 64


def saved_bytes(run):
    """Bytes that autograd keeps for the backward, each storage once."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        keep = run()
    del keep
    return sum(seen.values())


@pytest.mark.parametrize("columns", [16, 256])
def test_generated_adapters_are_not_copied_per_token(columns):
    x = torch.randn(K, columns, SIZE, requires_grad=True)
    a = torch.randn(K, RANK, SIZE, requires_grad=True)
    b = torch.randn(K, SIZE, RANK, requires_grad=True)
    plan = make_plan(Rows(torch.arange(K)), columns, 0)
    kept = saved_bytes(lambda: contribution(x, a, b, plan, "sum"))
    assert kept == 4 * (x.numel() + a.numel() + b.numel() + K * columns * RANK)


def test_a_bank_that_fits_the_rows_is_not_gathered(monkeypatch):
    seen = []
    real = kernels.bmm
    monkeypatch.setattr(kernels, "bmm", lambda x, a, b, base=None: seen.append(a) or real(x, a, b, base))
    x, a, b = torch.randn(K, 2, SIZE), torch.randn(K, RANK, SIZE), torch.randn(K, SIZE, RANK)
    contribution(x, a, b, make_plan(Rows(torch.arange(K)), 2, 0), "sum")
    contribution(x, a, b, make_plan(Rows(torch.tensor([1, 0, 2, 3])), 2, 0), "sum")
    assert seen[0] is a
    assert seen[1] is not a
    assert torch.equal(seen[1][0], a[1])


def test_a_diverged_adapter_does_not_reach_base_rows():
    x, a, b = torch.randn(3, 2, SIZE), torch.randn(2, RANK, SIZE), torch.randn(2, SIZE, RANK)
    a[0] = torch.nan
    y = contribution(x, a, b, make_plan(Rows(torch.tensor([-1, 1, 0])), 2, 0), "sum")
    assert y is not None
    assert not y[0].any()
    assert y[1].isfinite().all()
    assert y[2].isnan().all()


def test_columns_are_absolute_and_the_last_one_repeats():
    index = torch.arange(10).view(1, 10)
    for columns, offset, want in [
        (3, 0, [0, 1, 2]),
        (3, 5, [5, 6, 7]),
        (3, 8, [8, 9, 9]),
        (2, 10, [9, 9]),
        (2, 99, [9, 9]),
    ]:
        plan = make_plan(Tokens(index), columns, offset)
        assert plan.index_BTk[0, :, 0].tolist() == want


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        (Rows(torch.tensor([0, 1])), "2 rows, this batch has 3"),
        (Tokens(torch.zeros(2, 4, dtype=torch.long)), "2 rows, this batch has 3"),
        (Dense(torch.zeros(2, K)), "2 rows, this batch has 3"),
        (Dense(torch.zeros(3, K + 1)), "5 weights for 4 adapters"),
        (TopK(torch.zeros(2, 4, 1, dtype=torch.long), torch.zeros(2, 4, 1)), "2 rows, this batch has 3"),
    ],
)
def test_assignments_that_do_not_fit(assignment, told):
    x, a, b = torch.randn(3, 4, SIZE), torch.randn(K, RANK, SIZE), torch.randn(K, SIZE, RANK)
    with pytest.raises(ShapeError, match=told):
        contribution(x, a, b, make_plan(assignment, 4, 0), "sum")


def test_average_is_not_the_sum(pico_host):
    bank = make_bank(pico_host.sites, 2, 3)
    site = pico_host.sites[0]
    x, weight = torch.randn(2, 5, site.in_features), torch.rand(2, 1, 2)
    per_row = kernels.average(x, bank.a[site], bank.b[site], weight)
    per_token = kernels.average(x, bank.a[site], bank.b[site], weight.expand(-1, 5, -1).contiguous())
    torch.testing.assert_close(per_row, per_token, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(per_row, kernels.concat(x, bank.a[site], bank.b[site], weight), atol=1e-2)
