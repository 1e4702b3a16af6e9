"""Law 4: a row's logits do not depend on its batch mates or on padding, left or right."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from gate_once import Once
from tiny_models import make_bank
from weft.host import Host
from weft.types import AbstractGate, Dense, Mixture, Rows, Term, Tokens, TopK

LENGTHS = (7, 3, 5, 1)
WIDTH, K = 9, 5
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


class Nearest(AbstractGate):
    """Chooses two adapters per token by a fixed projection of the hidden state."""

    def assign(self, x_BTI, site, state):
        rng = torch.Generator().manual_seed(x_BTI.shape[-1])
        weight, index = (x_BTI @ torch.randn(x_BTI.shape[-1], K, generator=rng)).softmax(-1).topk(2)
        return TopK(index, weight), state


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    return Host(GPT2LMHeadModel(config).eval())


@pytest.fixture(params=["llama", "gpt2"])
def host(request, pico_host):
    return pico_host if request.param == "llama" else request.getfixturevalue("gpt2")


def assignments(row):
    """What row `row` of the batch gets, by itself; columns are the row's own tokens."""
    rng = torch.Generator().manual_seed(row)
    weight = torch.rand(1, LENGTHS[row], K, generator=rng)
    return {
        "rows": Rows(torch.tensor([(row * 2 - 1) % (K + 1) - 1])),
        "tokens": Tokens(torch.randint(-1, K, (1, LENGTHS[row]), generator=rng)),
        "topk": TopK(weight.topk(2).indices, weight.topk(2).values),
        "dense-row": Dense(torch.rand(1, K, generator=rng)),
        "dense-token": Dense(weight),
        "nearest": None,
        "once": None,
    }


def shifted(tensor, side):
    """One row's columns moved to where padding of that side leaves them."""
    room = WIDTH - tensor.shape[1]
    pad = tensor.new_zeros(1, room, *tensor.shape[2:])
    return torch.cat([pad, tensor] if side == "left" else [tensor, pad], 1)


def together(name, side):
    """The gate of the whole batch."""
    if name in ("nearest", "once"):
        return Nearest() if name == "nearest" else Once(32, K)
    alone = [assignments(row)[name] for row in range(len(LENGTHS))]
    if name == "rows":
        return Rows(torch.cat([one.index_B for one in alone]))
    if name == "tokens":
        return Tokens(torch.cat([shifted(one.index_BT, side) for one in alone]))
    if name == "topk":
        index = torch.cat([shifted(one.index_BTk, side) for one in alone])
        return TopK(index, torch.cat([shifted(one.weight_BTk, side) for one in alone]))
    if name == "dense-row":
        return Dense(torch.cat([one.weight for one in alone]))
    return Dense(torch.cat([shifted(one.weight, side) for one in alone]))


def prompts():
    rng = torch.Generator().manual_seed(3)
    return [torch.randint(3, 64, (1, length), generator=rng) for length in LENGTHS]


@pytest.mark.parametrize("combine", ["sum", "average"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rank", [2, 32])
@pytest.mark.parametrize("name", ["rows", "tokens", "topk", "dense-row", "dense-token", "nearest", "once"])
@torch.no_grad()
def test_a_row_alone_equals_the_row_in_a_padded_batch(host, name, rank, side, combine):
    bank = make_bank(host.sites, K, rank)
    ids = torch.cat([shifted(row, side) for row in prompts()])
    mask = torch.cat([shifted(torch.ones_like(row), side) for row in prompts()])
    batch = host(ids, Mixture((Term(bank, together(name, side), combine),)), mask_BT=mask).logits
    for row, alone in enumerate(prompts()):
        given = assignments(row)[name]
        gate = together(name, side) if given is None else given
        want = host(alone, Mixture((Term(bank, gate, combine),))).logits[0]
        torch.testing.assert_close(batch[row][mask[row].bool()], want, **CLOSE)
    assert (batch - host(ids, mask_BT=mask).logits)[mask.bool()].abs().max() > 0.05


@torch.no_grad()
def test_padding_does_not_matter_with_a_cache(host):
    """Two more tokens, after a cache that begins with padding on either side."""
    bank = make_bank(host.sites, K, 3)
    index = [0, None, 3, 4]
    mixture = Mixture.rows(bank, index)
    new = torch.tensor([[5, 6], [7, 8], [9, 10], [11, 12]])
    want = [
        host(torch.cat([ids, new[row : row + 1]], 1), Mixture.rows(bank, [index[row]])).logits[0, -2:]
        for row, ids in enumerate(prompts())
    ]
    for side in ("left", "right"):
        cache = DynamicCache(config=host.module.config)
        ids = torch.cat([shifted(row, side) for row in prompts()])
        mask = torch.cat([shifted(torch.ones_like(row), side) for row in prompts()])
        host(ids, mixture, mask_BT=mask, cache=cache)
        longer = torch.cat([mask, torch.ones_like(new)], 1)
        got = host(new, mixture, mask_BT=longer.bool(), cache=cache).logits
        for row, logits in enumerate(want):
            torch.testing.assert_close(got[row], logits, **CLOSE)


@torch.no_grad()
def test_rows_in_another_order(pico_host, pico_bank):
    bank = pico_bank(K, 4)
    ids = torch.randint(3, 64, (4, WIDTH), generator=torch.Generator().manual_seed(0))
    index, order = torch.tensor([3, -1, 0, 3]), torch.tensor([2, 0, 3, 1])
    here = pico_host(ids, Mixture.rows(bank, index)).logits
    there = pico_host(ids[order], Mixture.rows(bank, index[order])).logits
    torch.testing.assert_close(there, here[order], **CLOSE)
