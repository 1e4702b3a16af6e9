"""Law 3: every path through the kernels computes what a plain loop computes, gradients included."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.host import plan as plans
from weft.host.plan import contribution, make_plan
from weft.types import Dense, Rows, Tokens, TopK

CLOSE = {"atol": 2e-5, "rtol": 2e-4}


def loop(x, a, b, assignment, combine, offset):
    """The slow twin: token by token, adapter by adapter, as the formula is written."""
    rows = []
    for i in range(x.shape[0]):
        row = []
        for t in range(x.shape[1]):
            weights = choices(assignment, i, t + offset, len(a))
            y = x.new_zeros(b.shape[1])
            if combine == "average":
                mean_a = sum((w * a[k] for k, w in weights), torch.zeros_like(a[0]))
                mean_b = sum((w * b[k] for k, w in weights), torch.zeros_like(b[0]))
                y = mean_b @ (mean_a @ x[i, t])
            else:
                for k, w in weights:
                    y = y + w * (b[k] @ (a[k] @ x[i, t]))
            row.append(y)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def choices(assignment, row, position, count):
    """(adapter, weight) of one token."""

    def at(tensor):
        tensor = tensor[min(row, tensor.shape[0] - 1)]
        return tensor[min(position, tensor.shape[0] - 1)]

    match assignment:
        case Rows(index):
            pairs = [(int(index[min(row, len(index) - 1)]), 1.0)]
        case Tokens(index):
            pairs = [(int(at(index)), 1.0)]
        case TopK(index, weight):
            pairs = list(zip(at(index).tolist(), at(weight), strict=True))
        case Dense(weight) if weight.dim() == 2:
            pairs = list(enumerate(weight[min(row, len(weight) - 1)]))
        case Dense(weight):
            pairs = list(enumerate(at(weight)))
    assert all(-1 <= k < count for k, _ in pairs)
    return [(k, w) for k, w in pairs if k >= 0]


@contextmanager
def forced(kernel):
    """Take one kernel wherever there is a choice; None leaves the choice to the tables."""
    with pytest.MonkeyPatch.context() as patch:
        if kernel is not None:
            per_row = kernel if kernel in ("bmm", "grouped") else "bmm"
            per_token = kernel if kernel in ("concat", "grouped") else "concat"
            patch.setattr(plans, "choose_per_row", lambda **_: per_row)
            patch.setattr(plans, "choose_per_token", lambda **_: per_token)
        yield


@st.composite
def cases(draw):
    """Shapes with one token, odd ranks and sizes; indices that leave adapters without a token; -1."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    count, rank = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 3, 4, 5, 8]))
    sizes = draw(st.sampled_from([(8, 12), (7, 5), (16, 9)]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch = draw(st.sampled_from([1, rows]))
    length = draw(st.integers(1, columns + 3))
    k = draw(st.integers(1, 3))
    lowest = draw(st.sampled_from([-1, 0, count - 1]))

    def index(*shape):
        return torch.randint(lowest, count, shape, generator=rng)

    def weight(*shape):
        return torch.rand(shape, generator=rng)

    assignment = draw(
        st.sampled_from(
            [
                Rows(index(batch)),
                Rows(torch.arange(count)),
                Tokens(index(batch, length)),
                TopK(index(batch, length, k), weight(batch, length, k)),
                Dense(weight(batch, count)),
                Dense(weight(batch, length, count)),
            ]
        )
    )
    if isinstance(assignment, Rows) and len(assignment.index_B) not in (1, rows):
        rows = len(assignment.index_B)
    x = torch.randn(rows, columns, sizes[0], generator=rng)
    a = torch.randn(count, rank, sizes[0], generator=rng) * 0.5
    b = torch.randn(count, sizes[1], rank, generator=rng) * 0.5
    return x, a, b, assignment, draw(st.sampled_from(["sum", "average"])), draw(st.integers(0, 4))


def with_gradients(assignment, *tensors):
    """Fresh leaves, and the assignment over a leaf where it has weights."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    match assignment:
        case TopK(index, weight):
            leaves.append(weight.clone().requires_grad_())
            return leaves, TopK(index, leaves[-1])
        case Dense(weight):
            leaves.append(weight.clone().requires_grad_())
            return leaves, Dense(leaves[-1])
    return leaves, assignment


@pytest.mark.parametrize("kernel", ["concat", "bmm", "grouped", None])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_every_kernel_equals_the_loop_with_its_gradients(kernel, case):
    x, a, b, assignment, combine, offset = case
    slow_leaves, slow_assignment = with_gradients(assignment, x, a, b)
    want = loop(*slow_leaves[:3], slow_assignment, combine, offset)
    leaves, assignment = with_gradients(assignment, x, a, b)
    with forced(kernel):
        plan = make_plan(assignment, x.shape[1], offset)
        got = contribution(*leaves[:3], plan, combine)
    if got is None:
        assert not want.any()
        return
    torch.testing.assert_close(got, want, **CLOSE)
    direction = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    for loss in (lambda y: (y * direction).sum(), lambda y: y.sum()):
        if not want.requires_grad:
            break
        slow = torch.autograd.grad(loss(want), slow_leaves, retain_graph=True, materialize_grads=True)
        fast = torch.autograd.grad(loss(got), leaves, retain_graph=True, materialize_grads=True)
        for ours, theirs in zip(fast, slow, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("kernel", ["concat", "bmm", "grouped"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(kernel, dtype):
    if kernel == "grouped" and dtype == torch.float64:
        pytest.skip("grouped_mm takes no float64; the tables never ask it to")
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 16, generator=rng).to(dtype)
    a, b = torch.randn(5, 3, 16, generator=rng).to(dtype), torch.randn(5, 10, 3, generator=rng).to(dtype)
    for assignment in (
        Rows(torch.tensor([4, -1, 0])),
        Tokens(torch.randint(-1, 5, (3, 7), generator=rng)),
        TopK(torch.randint(-1, 5, (3, 7, 2), generator=rng), torch.rand(3, 7, 2, generator=rng)),
    ):
        with forced(kernel):
            got = contribution(x, a, b, make_plan(assignment, 7, 0), "sum")
        assert got is not None
        assert got.dtype == dtype
        want = loop(x.double(), a.double(), b.double(), assignment, "sum", 0)
        close = {"atol": 0.3, "rtol": 0.05} if dtype == torch.bfloat16 else {"atol": 1e-6, "rtol": 1e-6}
        torch.testing.assert_close(got.double(), want, **close)


def test_the_tables_choose_among_all_kernels():
    few = {"device": torch.device("cpu"), "dtype": torch.float32, "rank": 8}
    tokens = {plans.choose_per_token(count=c, tokens=512, k=1, **few) for c in (2, 64)}
    rows = {plans.choose_per_row(rows=r, columns=1, grad=False, **few) for r in (4, 512)}
    assert tokens == {"concat", "grouped"}
    assert rows == {"bmm", "grouped"}
    wide = {"device": torch.device("cpu"), "dtype": torch.float64, "rank": 64}
    assert plans.choose_per_token(count=64, tokens=512, k=1, **wide) == "concat"
    assert plans.choose_per_row(rows=512, columns=1, grad=True, **wide) == "bmm"
