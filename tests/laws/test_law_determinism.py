"""Law 10: the same description and seed give the same bytes in another process."""

from pathlib import Path

import torch
from transformers import LlamaConfig

from forked import elsewhere
from weft.adapters import save
from weft.embed import SentenceEncoder
from weft.host import sites_of
from weft.hyper import HyperNetwork, T2LConfig, build_t2l


def write(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    encoder = SentenceEncoder()
    network = build_t2l(T2LConfig(latent=16, head_in=16), sites_of(config), dim=encoder.dim)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    hyper = HyperNetwork(encoder, network, base="weft1-0123456789abcdef", name="law", provenance={"seed": 3})
    hyper.save_pretrained(folder / "hyper")
    for name, source in (("first", hyper), ("again", HyperNetwork.from_pretrained(folder / "hyper"))):
        save(source.adapt("sort the letters from z to a"), folder / name)


def test_same_description_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    write(tmp_path / "here")
    elsewhere(write, tmp_path / "there", said=tmp_path / "said.txt")

    def content(file: str) -> list[bytes]:
        return [(tmp_path / place / file).read_bytes() for place in ("here", "there")]

    for file in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        made = content(f"first/{file}")
        assert made[0] == made[1]
        assert content(f"again/{file}") == made
    for file in ("config.json", "model.safetensors"):
        first, second = content(f"hyper/{file}")
        assert first == second
