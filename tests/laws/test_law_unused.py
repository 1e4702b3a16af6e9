"""An adapter that a row does not use cannot touch it, whatever numbers the adapter holds.

What is not finite comes into no bank: not by loading, stacking, a pool, or a narrower type.
What is finite may be as large as its type allows, and overflows inside.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tiny_models import make_llama
from weft.adapters import load, save
from weft.errors import AdapterFormatError, ShapeError, WeightsError
from weft.host import Host, Pool
from weft.types import Bank, Dense, Factors, Mixture, Rows, Term, Tokens, TopK

K, ROWS, COLUMNS, BAD = 4, 3, 6, 2


def unused():
    """Assignments that never choose adapter `BAD`, or give it weight 0; some rows or tokens are the base."""
    others = torch.tensor([0, 1, 3])
    index = others[torch.arange(ROWS * COLUMNS * 2).view(ROWS, COLUMNS, 2) % 3]
    some = torch.where(torch.arange(COLUMNS) % 3 == 0, -1, index[..., 0])
    weight = torch.rand(ROWS, COLUMNS, K, generator=torch.Generator().manual_seed(1))
    weight[..., BAD] = 0
    base_row = weight.clone()
    base_row[1] = 0
    return {
        "rows": Rows(torch.tensor([0, 3, 1])),
        "rows-base": Rows(torch.tensor([-1, 3, -1])),
        "one-row": Rows(torch.tensor([1])),
        "all-base": Rows(torch.tensor([-1, -1, -1])),
        "tokens": Tokens(index[..., 0]),
        "tokens-base": Tokens(some),
        "topk": TopK(index, weight[..., :2]),
        "topk-zero": TopK(
            torch.stack([index[..., 0], torch.full_like(index[..., 0], BAD)], -1), weight[..., 1:3]
        ),
        "dense-row": Dense(weight[:, 0]),
        "dense-token": Dense(weight),
        "dense-base": Dense(base_row),
    }


@pytest.fixture(scope="module")
def host():
    return Host(make_llama())


@pytest.mark.parametrize("rank", [3, 64])
@pytest.mark.parametrize("combine", ["sum", "average"])
@pytest.mark.parametrize("bad", [0, BAD], ids=["first", "third"])
@pytest.mark.parametrize("name", list(unused()))
def test_what_is_not_used_is_not_felt(host, pico_bank, name, bad, combine, rank):
    bank = pico_bank(K, rank)
    assignment = unused()[name]
    swap = torch.arange(K)
    swap[bad], swap[BAD] = BAD, bad
    match assignment:  # the bad adapter in another place
        case Rows(index):
            assignment = Rows(torch.where(index < 0, -1, swap[index]))
        case Tokens(index):
            assignment = Tokens(torch.where(index < 0, -1, swap[index]))
        case TopK(index, weight):
            assignment = TopK(swap[index], weight)
        case Dense(weight):
            assignment = Dense(weight[..., swap])
    ids = torch.randint(3, 64, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(0))
    spoilt_a, spoilt_b = ({s: t.clone() for s, t in part.items()} for part in (bank.a, bank.b))
    holds = torch.finfo(torch.float32).max
    for site in bank.sites:
        spoilt_a[site][bad] = holds
        spoilt_b[site][bad] = holds
    spoilt = Bank(bank.names, spoilt_a, spoilt_b, bank.base)
    with torch.no_grad():
        want = host(ids, Mixture((Term(bank, assignment, combine),))).logits
        got = host(ids, Mixture((Term(spoilt, assignment, combine),))).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scaling", [1e308, torch.inf, torch.nan, 1.0])
def test_what_is_not_finite_comes_into_no_bank(host, pico_bank, scaling, tmp_path):
    """Both factors and alpha are finite numbers, alpha / r * B is none."""
    good = replace(pico_bank(2, 3)[0], name="good")
    site = good.sites[0]
    a_RI, b_OR, _ = good.factors[site]
    b_OR = torch.full_like(b_OR, torch.inf) if scaling == 1.0 else b_OR
    bad = replace(good, factors={**good.factors, site: Factors(a_RI, b_OR, scaling)}, name="bad")
    with pytest.raises(WeightsError, match="adapter bad holds NaN or infinity after scaling"):
        Bank.stack([good, bad])
    pool = Pool(host.sites, slots=2, r=4)
    pool.put(good)
    before = {site: pool.bank.b[site].clone() for site in host.sites}
    with pytest.raises((ShapeError, WeightsError), match="NaN or infinity"):
        pool.put(bad)
    assert all(torch.equal(pool.bank.b[site], before[site]) for site in host.sites)
    save(good, tmp_path / "x")
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    config["alpha_pattern"] = {site.module: 1e308}
    (tmp_path / "x" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterFormatError, match=r"makes torch.float32 numbers of up to"):
        load(tmp_path / "x")


def test_a_narrower_type_makes_no_infinities(pico_bank):
    bank = pico_bank(2, 3)
    site = bank.sites[0]
    large = Bank(bank.names, bank.a, {**bank.b, site: bank.b[site] * 1e9}, bank.base)
    assert torch.isfinite(large.to(torch.bfloat16).b[site]).all()
    with pytest.raises(WeightsError, match=r"holds NaN or infinity after scaling, in torch.float16"):
        large.to(torch.float16)


@pytest.mark.parametrize("part", ["a", "b"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bank_made_by_hand_is_refused_before_it_reaches_a_row(host, pico_bank, part, value):
    bank = pico_bank(2, 3)
    site = bank.sites[-1]
    spoilt = {**getattr(bank, part), site: getattr(bank, part)[site].clone()}
    spoilt[site][1, 0, 0] = value
    bad = Bank(bank.names, spoilt if part == "a" else bank.a, spoilt if part == "b" else bank.b, bank.base)
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(WeightsError, match="the bank of adapter-0, adapter-1 holds NaN or infinity"):
        host(ids, Mixture.rows(bad, [0, None]))
