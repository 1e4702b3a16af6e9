from pathlib import Path

import pytest
import torch
from tiny_training import tiny_host, write_tasks
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, PreTrainedConfig

from weft.errors import ConfigError
from weft.host import Host
from weft.tasks import Encoded
from weft.train.answer_logits import answer_logits, split_rows
from weft.train.learned_bank import LearnedBank
from weft.train.packing import pack
from weft.types import Bank, Mixture

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return tiny_host(write_tasks(tmp_path_factory.mktemp("tasks")))


def random_rows(count: int, longest: int, seed: int = 0) -> list[Encoded]:
    chance = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        ids = torch.randint(3, 60, (int(torch.randint(3, longest, (), generator=chance)),), generator=chance)
        rows.append(Encoded(ids[:2].tolist(), ids[2:].tolist()))
    return rows


def random_bank(host: Host, count: int) -> Bank:
    bank = LearnedBank(host.sites, [str(k) for k in range(count)], r=2, scaling=1.0, seed=0)
    for b in bank.b:
        nn.init.normal_(b, std=0.2)
    with torch.no_grad():
        return bank.part(0, count)


@pytest.mark.parametrize(("tokens", "longest"), [(300, 20), (1, 20), (10**6, 20), (500, 300)])
def test_every_row_is_in_one_forward_under_its_own_adapter(tokens: int, longest: int) -> None:
    rows = [random_rows(count, longest, seed=count) for count in (5, 1, 0, 30, 2)]
    found: list[list[int]] = [[] for _ in rows]
    for packed, start, end, index_B in split_rows(rows, tokens=tokens, pad_id=0):
        assert index_B.min() == 0
        assert index_B.max() + start == end - 1
        assert packed.ids_BT.numel() <= tokens or len(packed.ids_BT) == 1
        assert packed.ids_BT.shape[1] <= max(128, longest)
        for line, adapter in enumerate(index_B.tolist()):
            targets = packed.targets_BT[line]
            found[adapter + start] += targets[targets >= 0].tolist()
    for of_one, targets in zip(rows, found, strict=True):
        assert sorted(targets) == sorted(i for row in of_one for i in row.completion_ids)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=4),
        Gemma3TextConfig(
            **SIZES, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
        ),
    ],
    ids=["all layers", "every second layer"],
)
def test_packed_rows_see_no_further_than_a_sliding_window(config: PreTrainedConfig, attention: str) -> None:
    torch.manual_seed(0)
    host = Host(AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval())
    for parameter in host.module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.25)
    same = torch.randint(3, 60, (12,)).tolist()
    rows = [Encoded([*same, 7], [8, 9]), Encoded([*same, 5, 6], [4, 4, 3]), Encoded(same[3:], [50, 51])]
    [forward] = split_rows([rows], tokens=1000, pad_id=0)
    with torch.no_grad():
        want = sum(
            F.cross_entropy(
                host.module(torch.tensor([row.ids])).logits[0, len(row.prompt_ids) - 1 : -1],
                torch.tensor(row.completion_ids),
                reduction="sum",
            )
            for row in rows
        )
        assert answer_logits(host, None, forward.packed).nats() == pytest.approx(float(want), rel=1e-4)


def test_short_rows_of_each_adapter_share_one_line() -> None:
    rows = [random_rows(8, 14, seed=k) for k in range(6)]
    [forward] = split_rows(rows, tokens=10_000, pad_id=0)
    assert forward.index_B.tolist() == [0, 1, 2, 3, 4, 5]
    assert forward.packed.ids_BT.numel() < 1.3 * sum(len(row.ids) for of_one in rows for row in of_one)


@pytest.mark.parametrize("adapted_head", [False, True])
def test_answers_are_the_chosen_logits_of_a_whole_forward(tmp_path: Path, adapted_head: bool) -> None:
    host = tiny_host(write_tasks(tmp_path))
    if adapted_head:
        host = Host(host.module, tokenizer=host.tokenizer, target_modules=["q_proj", "lm_head"])
    bank = random_bank(host, 3)
    packed = pack([random_rows(3, 9, seed=k) for k in range(3)], pad_id=0)
    mixture = Mixture.rows(bank, [2, 0, 1])
    hooks = dict(host.module.get_output_embeddings()._forward_pre_hooks)
    said = answer_logits(host, mixture, packed)
    assert dict(host.module.get_output_embeddings()._forward_pre_hooks) == hooks
    chosen = packed.targets_BT >= 0
    mask = packed.mask_B1TT.float()
    whole = host(packed.ids_BT, mixture, attention_mask=mask, position_ids=packed.positions_BT).logits
    torch.testing.assert_close(said.logits_NV, whole[chosen])
    assert torch.equal(said.targets_N, packed.targets_BT[chosen])
    assert torch.equal(said.line_N.bincount(), chosen.sum(1))


def test_adapters_of_packed_rows_act_as_on_rows_alone(host: Host) -> None:
    bank = random_bank(host, 3)
    groups = [random_rows(3, 9, seed=k) for k in range(3)]
    said = answer_logits(host, Mixture.rows(bank, [2, 0, 1]), pack(groups, pad_id=0))
    alone = []
    for adapter, rows in zip([2, 0, 1], groups, strict=True):
        for row in rows:
            logits = host(torch.tensor([row.ids]), Mixture.rows(bank, [adapter])).logits[0]
            alone.append(logits[len(row.prompt_ids) - 1 : -1])
    torch.testing.assert_close(said.logits_NV, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_a_network_that_is_no_language_model_is_refused() -> None:
    packed = pack([random_rows(1, 9)], pad_id=0)
    with pytest.raises(ConfigError, match="needs a Hugging Face language model, this host is a Sequential"):
        answer_logits(Host(nn.Sequential(nn.Linear(4, 4))), None, packed)
