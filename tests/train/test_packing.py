from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from weft.tasks import Encoded
from weft.train.packing import Packed, pack, pack_in_chunks

PREFIX = [9, 8, 7, 6]
GROUPS = [
    [
        Encoded([*PREFIX, 11, 12], [13, 2]),
        Encoded([*PREFIX, 14], [15, 16, 17, 2]),
        Encoded([*PREFIX, 18], [2]),
    ],
    [Encoded([20, 21], [22, 2]), Encoded([23], [24, 2])],
    [Encoded([9, 8, 7], [6, 5, 4, 2])],
]


@pytest.fixture
def model(pico_llama: LlamaForCausalLM) -> LlamaForCausalLM:
    config = deepcopy(pico_llama.config)  # the attention is kept in it
    twin = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    twin.load_state_dict(pico_llama.state_dict())
    return twin.eval()


def run(model: LlamaForCausalLM, packed: Packed) -> Tensor:
    return model(
        input_ids=packed.ids_BT, position_ids=packed.positions_BT, attention_mask=packed.mask_B1TT.float()
    ).logits


def separate_loss(model: LlamaForCausalLM, rows: list[Encoded]) -> Tensor:
    """Sum over rows, each in a forward of its own."""
    total = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        start = max(len(row.prompt_ids), 1)
        total = total + F.cross_entropy(
            logits[start - 1 : -1], torch.tensor(row.ids[start:]), reduction="sum"
        )
    return total


@pytest.mark.parametrize("share_prefix", [True, False])
def test_packed_loss_and_gradients_equal_those_of_separate_rows(
    model: LlamaForCausalLM, share_prefix: bool
) -> None:
    packed = pack(GROUPS, pad_id=0, share_prefix=share_prefix)
    targets = packed.targets_BT
    loss = F.cross_entropy(run(model, packed)[targets >= 0], targets[targets >= 0], reduction="sum")
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    slow = separate_loss(model, [row for group in GROUPS for row in group])
    slow.backward()
    torch.testing.assert_close(loss, slow)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_shared_prefix_is_read_once() -> None:
    rows = GROUPS[0]
    assert pack([rows], pad_id=0).ids_BT.shape[1] == len(PREFIX) + sum(len(r.ids) - len(PREFIX) for r in rows)
    assert pack([rows], pad_id=0, share_prefix=False).ids_BT.shape[1] == sum(len(r.ids) for r in rows)


def test_a_row_without_a_prompt_is_not_asked_for_its_first_token(model: LlamaForCausalLM) -> None:
    rows = [Encoded([], [30, 31, 2]), Encoded([], [32, 2]), Encoded([33], [34, 2])]
    packed = pack([rows], pad_id=0)
    chosen = packed.targets_BT >= 0
    assert packed.targets_BT[chosen].tolist() == [31, 2, 2, 34, 2]
    loss = F.cross_entropy(run(model, packed)[chosen], packed.targets_BT[chosen], reduction="sum")
    torch.testing.assert_close(loss, separate_loss(model, rows))


def test_chunks_hold_the_same_rows_with_less_padding() -> None:
    chunks = pack_in_chunks(GROUPS, 3, pad_id=0)
    assert len(chunks) == 3
    whole = pack(GROUPS, pad_id=0)
    targets = [t for chunk in chunks for t in chunk.targets_BT[chunk.targets_BT >= 0].tolist()]
    assert sorted(targets) == sorted(whole.targets_BT[whole.targets_BT >= 0].tolist())
    assert sum(chunk.ids_BT.numel() for chunk in chunks) < whole.ids_BT.numel()


@torch.no_grad()
def test_rows_counted_right_are_those_that_greedy_decoding_answers(model: LlamaForCausalLM) -> None:
    chance = torch.Generator().manual_seed(0)
    groups, expected = [], []
    for number in range(4):
        group = []
        for size in (1, 3, 2):
            prompt = [*PREFIX, *torch.randint(3, 64, (2,), generator=chance).tolist()]
            answer = list(prompt)
            for _ in range(size):
                answer.append(int(model(input_ids=torch.tensor([answer])).logits[0, -1].argmax()))
            wrong = (number + size) % 3 == 0
            answer[-1 if number % 2 else len(prompt)] += wrong
            group.append(Encoded(prompt, answer[len(prompt) :]))
            expected.append(not wrong)
        groups.append(group)
    packed = pack(groups, pad_id=0)
    logits = run(model, packed)[packed.targets_BT >= 0]
    right, total = packed.count_right(logits, packed.targets_BT[packed.targets_BT >= 0])
    assert (right, total) == (sum(expected), 12)
    assert 0 < right < 12
