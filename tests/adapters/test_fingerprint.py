import re

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tiny_models import make_llama
from weft.adapters import fingerprint


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({"b": nn.Linear(33, 50), "a": nn.Embedding(7, 33), "c": nn.LayerNorm(1)})


def test_form_and_that_it_repeats() -> None:
    assert re.fullmatch(r"weft2-[0-9a-f]{16}", fingerprint(network()))
    assert fingerprint(network()) == fingerprint(network())


def test_float32_and_bfloat16_copies_share_it() -> None:
    assert fingerprint(network().bfloat16()) == fingerprint(network())


def test_a_float16_copy_of_bfloat16_weights_shares_it() -> None:
    published = network().bfloat16()
    with torch.no_grad():  # values that float16 holds less well than bfloat16
        published["a"].weight.mul_(torch.logspace(-6, 0, 33)[None].bfloat16())
    expected = fingerprint(published)
    assert (published["a"].weight.abs() < 1e-5).any()
    assert fingerprint(published.half()) == expected
    assert fingerprint(published.float()) == expected


@pytest.mark.parametrize("at", [0, -1])
def test_ends_of_a_parameter_count(at: int) -> None:
    other = network()
    with torch.no_grad():
        other["b"].weight.view(-1)[at] += 0.5
    assert fingerprint(other) != fingerprint(network())


def test_names_shapes_and_values_count() -> None:
    plain = nn.ModuleDict({"x": nn.Linear(2, 6, bias=False)})
    renamed = nn.ModuleDict({"y": plain["x"]})
    reshaped = nn.ModuleDict({"x": nn.Linear(6, 2, bias=False)})
    reshaped["x"].weight = nn.Parameter(plain["x"].weight.reshape(2, 6).detach())
    assert len({fingerprint(plain), fingerprint(renamed), fingerprint(reshaped)}) == 3
    assert fingerprint(network(1)) != fingerprint(network())


def test_order_of_registration_does_not_count() -> None:
    parts = network()
    assert fingerprint(nn.ModuleDict({"c": parts["c"], "a": parts["a"], "b": parts["b"]})) == fingerprint(
        parts
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_size_of_the_vocabulary_does_not_count(tied: bool) -> None:
    """Tokens are added for padding or chat; what adapters change stays as it was."""
    base = make_llama(tie_word_embeddings=tied)
    before = fingerprint(base)
    base.resize_token_embeddings(128)
    assert fingerprint(base) == before
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight[0, 0] += 0.5
    assert fingerprint(base) != before


def test_positions_count() -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8))
    before = fingerprint(base)
    with torch.no_grad():
        base.transformer.wpe.weight[0, 0] += 0.5
    assert fingerprint(base) != before
