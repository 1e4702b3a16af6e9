"""Networks whose rows of unequal length would come out wrong, without a word, from one cache."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTNeoConfig,
    Phi3Config,
    PreTrainedConfig,
)

from weft.engine.loop import check_window
from weft.errors import ConfigError, PromptTooLongError
from weft.host import Host

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
    ],
)
def test_a_network_that_counts_columns_is_not_decoded(config: PreTrainedConfig, said: str) -> None:
    host = Host(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(ConfigError, match=said):
        host.new_cache()
    assert host(torch.tensor([[3, 4, 5]])).logits.shape == (1, 3, 64)


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
