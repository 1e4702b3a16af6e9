"""Law 1: weights of 0, or B = 0, give the base's logits bit for bit."""

from __future__ import annotations

import pytest
import torch

from tiny_models import make_llama
from weft.host import Host
from weft.types import Bank, Dense, Mixture, Rows, Term, Tokens, TopK

K, ROWS, COLUMNS = 4, 3, 6


def nothing():
    """Assignments that choose the base, or weigh every adapter with 0."""
    index = torch.arange(ROWS * COLUMNS * 2).view(ROWS, COLUMNS, 2) % K
    return {
        "rows": Rows(torch.full((ROWS,), -1)),
        "one-row": Rows(torch.tensor([-1])),
        "tokens": Tokens(torch.full((ROWS, COLUMNS), -1)),
        "topk": TopK(index, torch.zeros(ROWS, COLUMNS, 2)),
        "topk-base": TopK(torch.full((ROWS, COLUMNS, 2), -1), torch.rand(ROWS, COLUMNS, 2)),
        "dense-row": Dense(torch.zeros(ROWS, K)),
        "dense-token": Dense(torch.zeros(ROWS, COLUMNS, K)),
    }


def something():
    """Assignments that choose adapters."""
    index = torch.arange(ROWS * COLUMNS * 2).view(ROWS, COLUMNS, 2) % K
    return {
        "rows": Rows(torch.tensor([0, 3, 1])),
        "one-row": Rows(torch.tensor([2])),
        "tokens": Tokens(index[..., 0]),
        "topk": TopK(index, torch.rand(ROWS, COLUMNS, 2)),
        "dense-row": Dense(torch.rand(ROWS, K)),
        "dense-token": Dense(torch.rand(ROWS, COLUMNS, K)),
    }


def logits(host, bank, assignment, combine):
    ids = torch.randint(3, 64, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(0))
    mixture = None if bank is None else Mixture((Term(bank, assignment, combine),))
    with torch.no_grad():
        return host(ids, mixture).logits


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def host(request):
    return Host(make_llama().to(request.param))


@pytest.mark.parametrize("rank", [3, 64])
@pytest.mark.parametrize("combine", ["sum", "average"])
@pytest.mark.parametrize("name", list(nothing()))
def test_weights_of_zero(host, pico_bank, name, combine, rank):
    found = logits(host, pico_bank(K, rank), nothing()[name], combine)
    assert torch.equal(found, logits(host, None, None, combine))


@pytest.mark.parametrize("rank", [3, 64])
@pytest.mark.parametrize("combine", ["sum", "average"])
@pytest.mark.parametrize("name", list(something()))
def test_b_of_zero(host, pico_bank, name, combine, rank):
    bank = pico_bank(K, rank)
    zero = Bank(bank.names, bank.a, {site: torch.zeros_like(b) for site, b in bank.b.items()})
    base = logits(host, None, None, combine)
    assert torch.equal(logits(host, zero, something()[name], combine), base)
    assert not torch.equal(logits(host, bank, something()[name], combine), base)


def test_no_terms_and_base_rows_in_a_mixed_batch(host, pico_bank):
    ids = torch.randint(3, 64, (2, COLUMNS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = host(ids).logits
        assert torch.equal(host(ids, Mixture()).logits, base)
        mixed = host(ids, Mixture.rows(pico_bank(K, 3), [1, None])).logits
    assert torch.equal(mixed[1], base[1])
    assert not torch.equal(mixed[0], base[0])
