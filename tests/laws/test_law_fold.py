"""Law 9: W + BA folded in equals the adapter applied; folding out restores W bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from weft.adapters import fold
from weft.host import Host
from weft.types import Adapter, Factors, Mixture

LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,
)
GPT2 = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)
CASES = pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])


def base_of(config: PreTrainedConfig) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def adapter_of(host: Host, *, seed: int = 1) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for i, site in enumerate(host.sites):
        a_RI = torch.randn(1 + i % 3, site.in_features, generator=generator) * 0.2
        factors[site] = Factors(
            a_RI, torch.randn(site.out_features, 1 + i % 3, generator=generator) * 0.2, 0.7
        )
    return Adapter(factors)


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: p.detach().view(torch.uint8).numpy().tobytes() for name, p in module.state_dict().items()}


@torch.no_grad()
def logits(module: nn.Module, ids_BT: Tensor) -> Tensor:
    return module(input_ids=ids_BT).logits


@CASES
def test_folded_equals_applied_and_unfolds_bit_for_bit(config: PreTrainedConfig) -> None:
    module, ids = base_of(config), torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(2))
    host = Host(base_of(config))
    adapter = adapter_of(host)
    with torch.no_grad():
        expected = host(ids, Mixture.of(adapter)).logits
    plain, before = logits(module, ids), bits(module)
    with fold(module, adapter):
        torch.testing.assert_close(logits(module, ids), expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 1e-2, "the adapter should do something"
    assert bits(module) == before
    assert torch.equal(logits(module, ids), plain)


@CASES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_unfolds_bit_for_bit(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    module = base_of(config).to(dtype)
    adapter, before = adapter_of(Host(base_of(config))), bits(module)
    folded = fold(module, adapter)
    assert bits(module) != before
    folded.unfold()
    assert bits(module) == before


def test_two_adapters_fold_in_and_out() -> None:
    module = base_of(LLAMA)
    host = Host(base_of(LLAMA))
    before = bits(module)
    with fold(module, adapter_of(host, seed=1)):
        between = bits(module)
        with fold(module, adapter_of(host, seed=2)):
            assert bits(module) != between
        assert bits(module) == between
    assert bits(module) == before


def test_weights_come_back_after_an_error(tmp_path: Path) -> None:
    module = base_of(LLAMA)
    before = bits(module)
    with pytest.raises(FileNotFoundError), fold(module, adapter_of(Host(base_of(LLAMA)))):
        (tmp_path / "nothing").read_text()
    assert bits(module) == before
