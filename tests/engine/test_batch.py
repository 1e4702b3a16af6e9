import pytest
import torch

from weft.engine import take_rows
from weft.engine.batch import batches
from weft.errors import ConfigError, ShapeError
from weft.types import AbstractGate, Dense, Mixture, Rows, Term, Tokens, TopK

ROWS, COLUMNS, K = 5, 6, 3


def assignments():
    rng = torch.Generator().manual_seed(0)
    return {
        "rows": Rows(torch.tensor([0, -1, 2, 1, 2])),
        "tokens": Tokens(torch.randint(-1, K, (ROWS, COLUMNS), generator=rng)),
        "topk": TopK(
            torch.tensor([[[0, 2]]]).expand(ROWS, COLUMNS, -1), torch.rand(ROWS, COLUMNS, 2, generator=rng)
        ),
        "dense-row": Dense(torch.rand(ROWS, K, generator=rng)),
        "dense-token": Dense(torch.rand(ROWS, COLUMNS, K, generator=rng)),
    }


@pytest.mark.parametrize("name", ["rows", "tokens", "topk", "dense-row", "dense-token"])
def test_the_mixture_follows_its_rows(pico_host, pico_bank, name):
    ids = torch.randint(3, 64, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(1))
    mixture = Mixture((Term(pico_bank(K, 2), assignments()[name]),)) + Mixture.of(pico_bank(1, 2, seed=1))
    index = torch.tensor([4, 1, 1, 0])
    want = pico_host.forward(ids, mixture).logits[index]
    got = pico_host.forward(ids[index], take_rows(mixture, index)).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_what_holds_nothing_of_a_row_stays_as_it_is(pico_bank):
    class Gate(AbstractGate):
        def assign(self, x_BTI, site, state):
            return Rows(torch.zeros(1, dtype=torch.long)), state

    bank = pico_bank(1, 2)
    mixture = Mixture((Term(bank, Gate(), "average"),)) + Mixture.of(bank)
    taken = take_rows(mixture, torch.tensor([7, 3]))
    assert all(a is b for a, b in zip(taken.terms, mixture.terms, strict=True))


def test_how_adapters_join_is_kept(pico_bank):
    mixture = Mixture.dense(pico_bank(K, 2), torch.rand(ROWS, K), combine="average")
    assert take_rows(mixture, torch.tensor([0])).terms[0].combine == "average"


@pytest.mark.parametrize("index", [[5], [0, -1]])
def test_a_row_that_is_not_there_is_refused(pico_bank, index):
    mixture = Mixture.rows(pico_bank(K, 2), [0, 1, 2, None, 0])
    with pytest.raises(ShapeError, match="rows run from 0 to 4"):
        take_rows(mixture, torch.tensor(index))


def test_batches_are_longest_first_and_hold_everyone_once():
    lengths = [3, 9, 1, 9, 4]
    assert batches(lengths, 2) == [[1, 3], [4, 0], [2]]
    assert batches(lengths, 10) == [[1, 3, 4, 0, 2]]
    assert batches([], 2) == []
    with pytest.raises(ConfigError, match="batch_size should be 1 or more, got 0"):
        batches(lengths, 0)
