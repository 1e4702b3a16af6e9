"""Folders for vLLM: one rank, one alpha, the same changes; what it cannot run is refused by name."""

import json

import pytest
import torch

from weft.adapters import for_vllm, load, save, site_at
from weft.errors import ShapeError, UnsupportedAdapterError
from weft.types import Adapter, Factors


def adapter(*sites, **more):
    chance = torch.Generator().manual_seed(0)
    return Adapter(
        {
            site_at(f"model.layers.{k}.self_attn.{module}", 6, 5): Factors(
                torch.randn(rank, 6, generator=chance), torch.randn(5, rank, generator=chance), scaling
            )
            for k, (module, rank, scaling) in enumerate(sites)
        },
        name="mine",
        **more,
    )


def deltas(one):
    return {site.path: f.scaling * f.b_OR.double() @ f.a_RI.double() for site, f in one.factors.items()}


@pytest.mark.parametrize(
    ("sites", "alpha"),
    [
        ([("q_proj", 4, 2.0), ("v_proj", 4, 2.0)], 8),
        ([("q_proj", 4, 2.0), ("v_proj", 2, 2.0)], 4),
        ([("q_proj", 4, 2.0), ("v_proj", 4, 0.3)], 4),
        ([("q_proj", 3, 0.5)], 3),
    ],
)
def test_the_folder_has_one_rank_and_alpha_and_the_same_changes(tmp_path, sites, alpha):
    one = adapter(*sites)
    save(for_vllm(one), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (one.rank, alpha)
    assert not config.get("rank_pattern")
    assert not config.get("alpha_pattern")
    assert config["target_modules"] == sorted({module for module, _, _ in sites})
    read = load(tmp_path / "out")
    assert {f.a_RI.shape[0] for f in read.factors.values()} == {one.rank}
    for path, delta in deltas(one).items():
        torch.testing.assert_close(deltas(read)[path], delta, atol=1e-6, rtol=1e-5)


def test_what_vllm_cannot_run_is_refused_by_name():
    with pytest.raises(UnsupportedAdapterError, match=r"rank 20.*--max-lora-rank 32"):
        for_vllm(adapter(("q_proj", 20, 1.0)))
    with pytest.raises(UnsupportedAdapterError, match=r"rank 600.*svd"):
        for_vllm(adapter(("q_proj", 600, 1.0)), max_lora_rank=512)
    with pytest.raises(UnsupportedAdapterError, match="lm_head, router"):
        for_vllm(adapter(("lm_head", 2, 1.0), ("router", 2, 1.0)))
    with pytest.raises(UnsupportedAdapterError, match="alora_invocation_tokens"):
        for_vllm(adapter(("q_proj", 2, 1.0), peft_config={"alora_invocation_tokens": [1, 2]}))
    with pytest.raises(ShapeError, match="no module"):
        for_vllm(adapter())
