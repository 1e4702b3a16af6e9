"""Fixtures that every room shares: a tiny Llama, a host over it, and banks that change it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from planted import Planted, make_planted
from tiny_models import make_bank, make_llama
from weft.host import Host
from weft.types import Bank

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move the home directory, so that no test reads or writes the real one."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
    monkeypatch.setenv("HF_HOME", str(folder / ".cache" / "huggingface"))
    return folder


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


@pytest.fixture(scope="session")
def planted() -> Planted:
    """Four tasks, and four adapters that know the answers to their test rows."""
    return make_planted()
