"""Fixtures that every room shares: a tiny Llama, a host over it, and banks that change it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weft.host import Host
from weft.types import Bank, Site

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move the home directory, so that no test reads or writes the real one."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
    monkeypatch.setenv("HF_HOME", str(folder / ".cache" / "huggingface"))
    return folder


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


@pytest.fixture(scope="session")
def pico_llama() -> LlamaForCausalLM:
    """A random Llama of two layers, width 32, 64 tokens. Shared, so do not change it."""
    return make_llama()


@pytest.fixture(scope="session")
def pico_host(pico_llama: LlamaForCausalLM) -> Host:
    """A host over `pico_llama`, all linear modules."""
    return Host(pico_llama, name="pico")


@pytest.fixture(scope="session")
def pico_bank(pico_host: Host) -> Callable[..., Bank]:
    """`pico_bank(K, r, seed=0)`: random adapters with non-zero B on all sites of `pico_host`."""

    def make(count: int, rank: int, *, seed: int = 0, scale: float = 0.2) -> Bank:
        return make_bank(pico_host.sites, count, rank, seed=seed, scale=scale)

    return make
