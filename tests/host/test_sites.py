from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from transformers import GPT2Config, MistralConfig, Qwen3MoeConfig

from tiny_models import make_bank, make_llama
from weft.errors import ConfigError, UnknownNameError
from weft.host import Host, sites_of
from weft.types import Mixture, Site


def test_all_linear_leaves_the_output_head_out():
    sites = sites_of(make_llama())
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {site.module for site in sites} == kinds
    assert len(sites) == 2 * len(kinds)
    assert list(sites) == sorted(sites)
    assert Site("model.layers.1.self_attn.k_proj", 1, "k_proj", 32, 16) in sites


def test_a_config_alone_gives_the_same_sites():
    model = make_llama(num_hidden_layers=12)
    assert sites_of(model.config) == sites_of(model)
    assert sites_of(model.config, ["q_proj"]) == sites_of(model, ["q_proj"])
    assert sites_of(model.config)[-1].layer == 9, "paths sort as text"


def test_a_large_config_needs_no_weights():
    config = MistralConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32)
    sites = sites_of(config, ["q_proj", "v_proj"])
    assert len(sites) == 64
    assert {(site.in_features, site.out_features) for site in sites} == {(4096, 4096), (4096, 1024)}


def test_target_modules_as_peft_reads_them():
    model = make_llama()
    q = sites_of(model, ["q_proj"])
    assert [site.path for site in q] == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    assert sites_of(model, r".*\.self_attn\.q_proj") == q
    assert sites_of(model, ["self_attn.q_proj"]) == q
    assert sites_of(model, ["model.layers.0.self_attn.q_proj"]) == q[:1]
    assert [site.module for site in sites_of(model, ["lm_head"])] == ["lm_head"]
    assert sites_of(model, ["roj"] * 0) == ()
    assert sites_of(model, "All-Linear") == sites_of(model)


@pytest.mark.parametrize("wrong", [["q_prj"], ["q_proj", "q_prj"], "q_prj", ["roj"], ["embed_tokens"]])
def test_an_unknown_module_offers_the_nearest(wrong):
    with pytest.raises(UnknownNameError) as caught:
        sites_of(make_llama(), wrong)
    if "q_prj" in wrong:
        assert "'q_prj'" in str(caught.value)
        assert "did you mean q_proj?" in str(caught.value)
    assert "down_proj, gate_proj" in str(caught.value)


def test_a_pattern_that_is_none():
    with pytest.raises(ConfigError, match="not a regular expression"):
        sites_of(make_llama(), "*q_proj")


def test_conv1d_has_its_sizes_the_other_way_round():
    sites = {s.path: s for s in sites_of(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64))}
    assert sites["transformer.h.0.attn.c_attn"] == Site("transformer.h.0.attn.c_attn", 0, "c_attn", 32, 96)
    assert (sites["transformer.h.0.mlp.c_proj"].in_features, len(sites)) == (128, 4)


def test_fused_experts_are_no_linear_modules():
    config = Qwen3MoeConfig(
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        vocab_size=64,
    )
    assert {s.module for s in sites_of(config)} >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert not any("experts." in s.path for s in sites_of(config))


class Packed(nn.Module):
    """A quantised linear of another library: two sizes, no weight to speak of."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("packed", torch.randint(-8, 8, (out_features, in_features), dtype=torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.packed.to(x.dtype).T


def test_quantised_linears_and_plain_modules():
    module = nn.Sequential(Packed(6, 8), nn.ReLU(), nn.ModuleDict({"head": nn.Linear(8, 3)})["head"])
    assert sites_of(module) == (Site("0", 0, "0", 6, 8), Site("2", 2, "2", 8, 3))
    host = Host(module)
    before = module[0].packed.clone()

    bank = make_bank(host.sites, 2, 3)
    x = torch.randn(2, 6)
    with host.running(Mixture.rows(bank, [1, None])):
        changed = module(x)
    assert torch.equal(changed[1], module(x)[1])
    assert not torch.equal(changed[0], module(x)[0])
    assert torch.equal(module[0].packed, before)


def test_attention_of_torch_never_calls_its_out_proj():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert [site.path for site in sites_of(layer)] == ["linear1", "linear2"]
    with pytest.raises(UnknownNameError):
        sites_of(layer, ["out_proj"])


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?:(?=(.*))(?:.|..|...)*)*[^a-z]{2}", "takes too long to match"),
        ("q" * 5000, "5000 characters, at most 4096"),
    ],
)
def test_a_pattern_that_would_never_end(pattern, said):
    start = time.process_time()
    with pytest.raises(ConfigError, match=said):
        sites_of(make_llama(), pattern)
    assert time.process_time() - start < 8
