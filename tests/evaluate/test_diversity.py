import pytest
import torch

from weft.adapters import cosine
from weft.embed import cosines
from weft.evaluate import mean_cosine
from weft.types import Bank


def test_all_pairs_are_the_cosine_of_each_pair(pico_bank):
    bank = pico_bank(5, 3)
    got = cosines(bank)
    for i in range(5):
        for j in range(5):
            assert got[i, j].item() == pytest.approx(cosine(bank[i], bank[j]), abs=1e-9)
    pairs = [cosine(bank[i], bank[j]) for i in range(5) for j in range(i)]
    assert mean_cosine(bank) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)


def test_one_adapter_for_all_is_collapse(pico_bank):
    bank = pico_bank(1, 2).select(torch.tensor([0, 0, 0]))
    assert mean_cosine(bank) == pytest.approx(1.0)


def test_a_zero_adapter_has_no_direction(pico_bank):
    bank = pico_bank(2, 2)
    zero = Bank(
        bank.names, bank.a, {s: b * torch.tensor([1.0, 0.0])[:, None, None] for s, b in bank.b.items()}
    )
    assert mean_cosine(zero) == 0.0
