"""Law 3: loop = concat = bmm = grouped, forward and gradients of A, B and w, for every assignment."""

from unittest import mock

import pytest
import torch
from every_kind import FIXED, assignment_of, loop, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.host import plan as plan_module
from weft.host.plan import contribution, make_plan
from weft.types import Dense, Rows, Tokens, TopK

PATHS = [("bmm", "concat"), ("grouped", "grouped")]
"""(kernel per row, kernel per token)."""


@st.composite
def cases(draw):
    return {
        "kind": draw(st.sampled_from(FIXED)),
        "combine": draw(st.sampled_from(["sum", "average"])),
        "rows": draw(st.integers(1, 4)),
        "columns": draw(st.integers(1, 5)),
        "count": draw(st.integers(1, 6)),
        "rank": draw(st.integers(1, 5)),
        "sizes": draw(st.tuples(st.integers(1, 9), st.integers(1, 9))),
        "seed": draw(st.integers(0, 2**16)),
        "ragged": draw(st.booleans()),
    }


def ragged(assignment, seed):
    """The same with the base on the columns past each row's length."""
    if isinstance(assignment, Rows) or (isinstance(assignment, Dense) and assignment.weight.dim() == 2):
        return assignment
    match assignment:
        case Dense(first) | Tokens(first) | TopK(first):
            rows, columns = first.shape[:2]
    lengths = torch.randint(0, columns + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    past = torch.arange(columns) >= lengths[:, None]
    match assignment:
        case Tokens(index):
            return Tokens(index.masked_fill(past, -1))
        case TopK(index, weight):
            return TopK(index.masked_fill(past[..., None], -1), weight)
        case Dense(weight):
            return Dense(weight.masked_fill(past[..., None], 0))


def with_grad(assignment):
    """The assignment with a leaf for its weights, and that leaf."""
    match assignment:
        case TopK(index, weight):
            leaf = weight.clone().requires_grad_()
            return TopK(index, leaf), [leaf]
        case Dense(weight):
            leaf = weight.clone().requires_grad_()
            return Dense(leaf), [leaf]
        case _:
            return assignment, []


def forms(assignment, rows, columns, count):
    """The same weights, said in every way that can say them."""
    yield assignment
    match assignment:
        case Rows(index):
            index_BT = index[:, None].expand(rows, columns)
            yield Tokens(index_BT)
            yield TopK(index_BT[..., None], torch.ones(rows, columns, 1))
        case Tokens(index):
            yield TopK(index[..., None], torch.ones(*index.shape, 1))
    yield Dense(weights_of(assignment, rows, columns, count).detach())


def outcome(run, x, a, b, assignment, up):
    """Output and gradients of x, A, B and w."""
    x, a, b = (t.clone().requires_grad_() for t in (x, a, b))
    assignment, weights = with_grad(assignment)
    y = run(x, a, b, assignment)
    if y is None:
        y = x.new_zeros(up.shape) + 0 * (x.sum() + a.sum() + b.sum())
    grads = torch.autograd.grad((y * up).sum(), [x, a, b, *weights], allow_unused=True)
    leaves = [x, a, b, *weights]
    return y, [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True)]


def agree(got, want, names):
    for name, one, other in zip(names, got, want, strict=False):
        one, other = one.detach(), other.detach()
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(
            one.double(), other.double(), atol=1e-5 * scale, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cases())
def test_every_path_gives_what_the_loop_gives(case):
    rng = torch.Generator().manual_seed(case["seed"])
    rows, columns, count, rank = case["rows"], case["columns"], case["count"], case["rank"]
    inputs, outputs = case["sizes"]
    x = torch.randn(rows, columns, inputs, generator=rng)
    a = torch.randn(count, rank, inputs, generator=rng)
    b = torch.randn(count, outputs, rank, generator=rng)
    up = torch.randn(rows, columns, outputs, generator=rng)
    assignment = assignment_of(case["kind"], rows, columns, count, seed=case["seed"])
    if case["ragged"]:
        assignment = ragged(assignment, case["seed"])

    def slow(x, a, b, assignment):
        return loop(x, a, b, weights_of(assignment, rows, columns, count), case["combine"])

    def fast(x, a, b, assignment):
        return contribution(x, a, b, make_plan(assignment, columns, 0), case["combine"])

    want, want_grads = outcome(slow, x, a, b, assignment, up)
    for per_row, per_token in PATHS:
        with (
            mock.patch.object(plan_module, "choose_per_row", return_value=per_row),
            mock.patch.object(plan_module, "choose_per_token", return_value=per_token),
        ):
            for form in forms(assignment, rows, columns, count):
                got, got_grads = outcome(fast, x, a, b, form, up)
                # Another form has weights of its own, in another shape, so theirs are not compared.
                kept = len(want_grads) if form is assignment else 3
                name = f"{type(form).__name__} by {per_row}/{per_token}"
                agree([got], [want], [f"output of {name}"])
                names = [f"gradient of {leaf}, {name}" for leaf in ("x", "a", "b", "w")]
                agree(got_grads[:kept], want_grads[:kept], names[:kept])


@pytest.mark.parametrize("offset", [0, 1, 2, 7])
@pytest.mark.parametrize("kind", FIXED)
def test_a_plan_of_later_columns_is_a_cut_of_the_whole(kind, offset):
    rows, columns, count = 3, 8, 4
    assignment = assignment_of(kind, rows, columns - 3, count)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(rows, columns, 5, generator=rng)
    a, b = torch.randn(count, 2, 5, generator=rng), torch.randn(count, 6, 2, generator=rng)
    want = loop(x, a, b, weights_of(assignment, rows, columns, count))[:, offset:]
    got = contribution(x[:, offset:], a, b, make_plan(assignment, columns - offset, offset), "sum")
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("combine", ["sum", "average"])
@pytest.mark.parametrize("path", ["concat", "grouped"])
def test_all_tokens_on_the_base_give_nothing(path, combine):
    x, a, b = torch.randn(2, 3, 5), torch.randn(4, 2, 5), torch.randn(4, 6, 2)
    plan = make_plan(Tokens(torch.full((2, 3), -1)), 3, 0)
    with mock.patch.object(plan_module, "choose_per_token", return_value=path):
        assert not contribution(x, a, b, plan, combine).any()
    assert contribution(x, a, b, make_plan(Rows(torch.tensor([-1, -1])), 3, 0), combine) is None


def test_one_weighted_adapter_averages_to_its_square():
    """(w B)(w A), not w B A: an average weighs both factors, also where a token has one adapter."""
    rng = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(*s, generator=rng) for s in ((2, 3, 5), (4, 2, 5), (4, 6, 2)))
    index = torch.tensor([[0, 1, -1], [3, 3, 2]])[..., None]
    half = TopK(index, torch.full((2, 3, 1), 0.5))
    got = contribution(x, a, b, make_plan(half, 3, 0), "average")
    torch.testing.assert_close(
        got, 0.25 * contribution(x, a, b, make_plan(Tokens(index[..., 0]), 3, 0), "sum")
    )
