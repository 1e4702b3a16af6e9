"""Networks whose rows of unequal length would come out wrong, without a word, from one cache."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    FalconConfig,
    Gemma3nTextConfig,
    GPTNeoConfig,
    MptConfig,
    OpenAIGPTConfig,
    Phi3Config,
    PreTrainedConfig,
    RobertaConfig,
)

from weft.engine.loop import check_window
from weft.errors import ConfigError, PromptTooLongError
from weft.host import Host
from weft.rows import Share
from weft.tasks import Encoded
from weft.train.answer_logits import answer_logits
from weft.train.packing import pack

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4), "makes its ALiBi of a mask"),
        (FalconConfig(**SMALL, alibi=True), "makes its ALiBi of a mask"),
        (
            GPTNeoConfig(
                vocab_size=64,
                hidden_size=32,
                num_layers=2,
                num_heads=4,
                attention_types=[[["global", "local"], 1]],
                max_position_embeddings=64,
            ),
            "has layers of local_attention",
        ),
        (RobertaConfig(**SMALL, intermediate_size=48, is_decoder=True), "from behind its padding token"),
        (OpenAIGPTConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4), "keeps no keys and values"),
        (
            BartConfig(vocab_size=64, d_model=32, decoder_layers=2, encoder_layers=1, decoder_ffn_dim=48),
            "takes no position_ids",
        ),
    ],
)
def test_a_network_that_counts_columns_is_not_decoded(config: PreTrainedConfig, said: str) -> None:
    host = Host(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(ConfigError, match=said):
        host.new_cache()
    assert host(torch.tensor([[3, 4, 5]])).logits.shape == (1, 3, 64)
    packed = pack([[Encoded([3, 4], [5])]], pad_id=0)
    with pytest.raises(ConfigError, match=said):
        answer_logits(host, None, packed)


def test_alibi_of_mpt_is_decoded_and_not_packed() -> None:
    config = MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=4)
    host = Host(AutoModelForCausalLM.from_config(config).eval())
    host.new_cache()
    with pytest.raises(ConfigError, match="takes no position_ids"):
        answer_logits(host, None, pack([[Encoded([3, 4], [5])]], pad_id=0))


def test_layers_that_read_the_keys_of_others_keep_none() -> None:
    torch.manual_seed(0)
    config = Gemma3nTextConfig(
        vocab_size=64,
        vocab_size_per_layer_input=64,
        hidden_size=32,
        hidden_size_per_layer_input=4,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_kv_shared_layers=2,
        laurel_rank=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        pad_token_id=0,
    )
    host = Host(AutoModelForCausalLM.from_config(config).eval())
    ids = torch.randint(3, 64, (2, 6))
    cache, other = host.new_cache(), host.new_cache()
    host.step(ids[:, :4], other, [Share()] * 2)
    cache.join(other, [1, 0])
    said = host.step(ids[[1, 0], 4:], cache, [Share()] * 2).logits_BV
    torch.testing.assert_close(said, host(ids).logits[[1, 0], -1], atol=1e-4, rtol=1e-4)
    cache.leave(0)
    assert len(cache.lengths) == 1


def test_rows_do_not_outgrow_the_first_factors_of_longrope() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 8,
        "factor": 8.0,
    }
    config = Phi3Config(
        **SMALL,
        intermediate_size=48,
        max_position_embeddings=64,
        original_max_position_embeddings=8,
        rope_parameters=rope,
        pad_token_id=0,
    )
    host = Host(AutoModelForCausalLM.from_config(config).eval())
    long, short = torch.randint(3, 64, (1, 12)), torch.randint(3, 64, (1, 5))
    both = torch.zeros(2, 12, dtype=torch.long)
    both[0], both[1, :5] = long, short
    mask = (both != 0).long()
    with torch.no_grad():
        beside = host(both, mask_BT=mask).logits[1, :5]
        assert (beside - host(short).logits[0]).abs().max() > 1e-4, "longer mates change the short row"
    assert host.window == 8
    check_window(host, 5, 3)
    with pytest.raises(PromptTooLongError, match="the model's window of 8"):
        check_window(host, 5, 4)
