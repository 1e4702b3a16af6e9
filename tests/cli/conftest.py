"""A tiny base, its hypernetwork and an adapter on disk, all with random weights."""

import pytest
import torch
from tiny_cli import DESCRIPTIONS, Tiny
from transformers import LlamaConfig, LlamaForCausalLM

from weft.cli import main
from weft.embed import OneHot
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.tasks.letters.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Two bases, and a hypernetwork for the first that knows `DESCRIPTIONS`."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(DESCRIPTIONS)
    for seed, name in enumerate(("base", "other")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
        config.initializer_range = 0.2
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    host = Host.from_pretrained(folder / "base")
    torch.manual_seed(2)
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0), host.sites, dim=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    hyper = HyperNetwork(
        OneHot(DESCRIPTIONS),
        network,
        base=host.fingerprint,
        name="tiny-t2l",
        provenance={"seed": 2, "base_model": str(folder / "base")},
    )
    hyper.save_pretrained(folder / "hyper")
    return Tiny(str(folder / "base"), str(folder / "other"), str(folder / "hyper"), host.fingerprint)


@pytest.fixture(scope="session")
def adapter(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter folder for `tiny.base`, made by `weft adapt`."""
    folder = tmp_path_factory.mktemp("adapters") / "sort"
    assert main(["adapt", DESCRIPTIONS[0], "-o", str(folder), "--with", tiny.hyper]) == 0
    return str(folder)
