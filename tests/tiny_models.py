"""Random models and banks, small enough for any test."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weft.types import Bank, Site


def make_llama(seed: int = 0, **overrides: int) -> LlamaForCausalLM:
    """A random Llama, the same for the same seed."""
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(**(sizes | overrides), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    # Ten times the usual spread: at this size the default gives logits too flat to tell errors by.
    config.initializer_range = 0.2
    return LlamaForCausalLM(config).eval()


def make_bank(sites: tuple[Site, ...], count: int, rank: int, *, seed: int = 0, scale: float = 0.2) -> Bank:
    """A bank of random adapters with non-zero B."""
    rng = torch.Generator().manual_seed(seed)
    return Bank(
        names=tuple(f"adapter-{k}" for k in range(count)),
        a={s: torch.randn(count, rank, s.in_features, generator=rng) * s.in_features**-0.5 for s in sites},
        b={s: torch.randn(count, s.out_features, rank, generator=rng) * scale for s in sites},
    )
