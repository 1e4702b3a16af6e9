import pytest
import torch

from weft.engine import nll
from weft.errors import ShapeError
from weft.route import TreeGate, full
from weft.tasks import Encoded, collate
from weft.types import Mixture, Term

ROWS = [([5, 9, 11, 4], [7, 2]), ([8], [3, 3, 12, 40, 2]), ([20, 21, 22], [50])]


def padded(side):
    batch = collate([Encoded(*row) for row in ROWS], pad_id=0, side=side)
    return batch.ids_BT, batch.labels_BT, batch.mask_BT


def slow(host, bank, adapter, prompt, completion):
    """One row, one token at a time, no padding."""
    total = 0.0
    for count, token in enumerate(completion):
        ids = torch.tensor([prompt + completion[:count]])
        logits = host.forward(ids, Mixture.rows(bank, [adapter])).logits[0, -1]
        total -= logits.log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize("side", ["left", "right"])
def test_nll_is_the_sum_over_the_completion(pico_host, pico_bank, side):
    bank = pico_bank(2, 2)
    chosen = [1, None, 0]
    ids, labels, mask = padded(side)
    got = nll(pico_host, ids, labels, Mixture.rows(bank, chosen), mask_BT=mask)
    want = [slow(pico_host, bank, k, *row) for k, row in zip(chosen, ROWS, strict=True)]
    torch.testing.assert_close(got, torch.tensor(want), atol=1e-4, rtol=1e-5)


def test_nll_over_tokens_is_the_loss_of_the_model(pico_host):
    ids, labels, mask = padded("right")
    loss = pico_host.module(input_ids=ids, labels=labels, attention_mask=mask).loss
    got = nll(pico_host, ids, labels, mask_BT=mask).sum() / (labels != -100).sum()
    torch.testing.assert_close(got, loss, atol=1e-5, rtol=1e-5)


def test_a_gate_per_sequence_decides_on_the_prompt_alone(pico_host, pico_bank):
    gate = TreeGate(full(1), pico_host.module.config.hidden_size, scope="sequence", descent="soft").eval()
    mixture = Mixture((Term(pico_bank(2, 2), gate),))
    ids, labels, mask = padded("left")
    got = nll(pico_host, ids, labels, mixture, mask_BT=mask)
    for loss, (prompt, completion) in zip(got, ROWS, strict=True):
        states = pico_host.prepare(torch.tensor([prompt]), mixture)
        logits_TV = pico_host.forward(torch.tensor([prompt + completion]), mixture, states=states).logits[0]
        said_TV = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(
            loss, -said_TV[range(len(completion)), completion].sum(), atol=1e-4, rtol=1e-5
        )


def test_labels_that_nothing_predicts_count_nothing(pico_host):
    ids = torch.tensor([[5, 6, 7]])
    assert nll(pico_host, ids, torch.full_like(ids, -100)).tolist() == [0.0]
    first = torch.tensor([[5, -100, -100]])
    assert nll(pico_host, ids, first).tolist() == [0.0]
    both = torch.tensor([[5, 6, -100]])
    assert nll(pico_host, ids, both).tolist() == nll(pico_host, ids, torch.tensor([[-100, 6, -100]])).tolist()


def test_a_mixture_for_other_rows_is_refused(pico_host, pico_bank):
    ids, labels, mask = padded("left")
    with pytest.raises(ShapeError, match="2 rows, this batch has 3"):
        nll(pico_host, ids, labels, Mixture.rows(pico_bank(2, 2), [0, 1]), mask_BT=mask)
