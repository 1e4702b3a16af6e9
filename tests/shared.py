"""Fixtures that every room shares: a tiny Llama, a host over it, and banks that change it."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from planted import Planted, make_planted
from tiny_models import make_bank, make_llama
from weft.errors import MissingFileError
from weft.host import Host
from weft.host.fetch import fetch_model
from weft.registry import NAMED, cache_folder
from weft.types import Bank

torch.set_num_threads(1)

_USERS_CACHE = cache_folder()
"""Before `home` moves it: a real model is fetched once, not once a test."""
_homes = count()


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move the home directory, so that no test reads or writes the real one."""
    folder = tmp_path_factory.getbasetemp() / "homes" / str(next(_homes))  # `mktemp` looks at all before it
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
    monkeypatch.setenv("HF_HOME", str(folder / ".cache" / "huggingface"))
    return folder


@pytest.fixture(scope="session")
def fetched_smollm2() -> Path:
    """The folder of `weft/smollm2` in the user's own cache; without a network tests skip, but not in CI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(_USERS_CACHE))
        try:
            return fetch_model(NAMED["weft/smollm2"])
        except MissingFileError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))


@pytest.fixture
def smollm2(fetched_smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name `weft/smollm2`, fetched and within reach."""
    monkeypatch.setenv("WEFT_CACHE", str(_USERS_CACHE))
    return "weft/smollm2"


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
