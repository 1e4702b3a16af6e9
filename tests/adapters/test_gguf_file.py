"""GGUF files read back: names, alpha, factors, and the order of queries and keys that llama.cpp rotates."""

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from weft.adapters import save_gguf, site_at
from weft.errors import ShapeError, UnsupportedAdapterError
from weft.types import Adapter, Factors

HEADS, KEYS, WIDE = 4, 2, 8
CONFIG = LlamaConfig(
    hidden_size=HEADS * WIDE,
    num_attention_heads=HEADS,
    num_key_value_heads=KEYS,
    num_hidden_layers=2,
    intermediate_size=48,
    tie_word_embeddings=True,
)


def factors(out, into, rank, scaling, seed):
    chance = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, into, generator=chance), torch.randn(out, rank, generator=chance)
    return Factors(a, b, scaling)


def adapter(**more):
    sites = {
        "model.layers.0.self_attn.q_proj": factors(32, 32, 4, 2.0, 0),
        "model.layers.0.self_attn.k_proj": factors(16, 32, 4, 2.0, 1),
        "model.layers.1.mlp.down_proj": factors(32, 48, 3, 0.7, 2),
    } | more
    return Adapter(
        {site_at(path, f.a_RI.shape[1], f.b_OR.shape[0]): f for path, f in sites.items()},
        base="print",
        name="mine",
        provenance={"description": "say it twice", "base_model": "some/base"},
    )


def read(path):
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def delta(tensors, name, alpha):
    b = tensors[f"{name}.lora_b"]
    return torch.from_numpy(alpha / b.shape[1] * (b @ tensors[f"{name}.lora_a"]))


def interleaved(x, angle):
    """Rotary embedding of neighbouring pairs, as llama.cpp has it for this family. x: [heads, wide]"""
    a, b = x[:, 0::2], x[:, 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(1)


def halves(x, angle):
    """Rotary embedding of the two halves, as transformers has it."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def test_a_file_holds_the_same_changes(tmp_path):
    save_gguf(adapter(), tmp_path / "a.gguf", CONFIG)
    fields, tensors = read(tmp_path / "a.gguf")
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == "llama"
    assert (fields["adapter.type"], fields["adapter.lora.alpha"]) == ("lora", 8.0)
    assert (fields["weft.base_model"], fields["weft.base_fingerprint"]) == ("some/base", "print")
    assert all(values.dtype == np.float32 for values in tensors.values())
    assert sorted(tensors) == sorted(
        f"blk.{name}.weight.lora_{x}" for name in ("0.attn_q", "0.attn_k", "1.ffn_down") for x in "ab"
    )
    (a, b, scaling) = adapter().factors[next(s for s in adapter().factors if s.module == "down_proj")]
    torch.testing.assert_close(delta(tensors, "blk.1.ffn_down.weight", 8.0), scaling * b @ a)


def test_scores_of_rotated_queries_and_keys_are_those_of_the_base(tmp_path):
    save_gguf(adapter(), tmp_path / "a.gguf", CONFIG)
    _, tensors = read(tmp_path / "a.gguf")
    x, y = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    here, there = torch.rand(2, WIDE // 2) * 3
    own = {site.module: f.scaling * f.b_OR @ f.a_RI for site, f in adapter().factors.items()}
    q, k = (own["q_proj"] @ x).view(HEADS, WIDE), (own["k_proj"] @ y).view(KEYS, WIDE)
    want = halves(q, here) @ halves(k, there).T
    q = (delta(tensors, "blk.0.attn_q.weight", 8.0) @ x).view(HEADS, WIDE)
    k = (delta(tensors, "blk.0.attn_k.weight", 8.0) @ y).view(KEYS, WIDE)
    torch.testing.assert_close(interleaved(q, here) @ interleaved(k, there).T, want, atol=1e-3, rtol=1e-4)


def test_qwen_keeps_its_order(tmp_path):
    config = Qwen3Config(num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KEYS)
    save_gguf(adapter(), tmp_path / "a.gguf", config)
    fields, tensors = read(tmp_path / "a.gguf")
    assert fields["general.architecture"] == "qwen3"
    (a, b, scaling) = adapter().factors[next(s for s in adapter().factors if s.module == "q_proj")]
    torch.testing.assert_close(delta(tensors, "blk.0.attn_q.weight", 8.0), scaling * b @ a)


def test_what_llama_cpp_cannot_run_is_refused_by_name(tmp_path):
    file = tmp_path / "a.gguf"
    with pytest.raises(UnsupportedAdapterError, match=r"model\.strange"):
        save_gguf(adapter(**{"model.strange": factors(8, 8, 2, 1.0, 0)}), file, CONFIG)
    with pytest.raises(UnsupportedAdapterError, match="lm_head"):
        save_gguf(adapter(lm_head=factors(8, 32, 2, 1.0, 0)), file, CONFIG)
    with pytest.raises(UnsupportedAdapterError, match="gpt2"):
        save_gguf(adapter(), file, type("Config", (), {"model_type": "gpt2"}))
    with pytest.raises(ShapeError, match="no module"):
        save_gguf(Adapter({}), file, CONFIG)
    assert not file.exists()
