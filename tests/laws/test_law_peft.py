"""Law 2: a PEFT folder goes through Weft byte for byte, and both compute the same logits."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from weft.adapters import load, save
from weft.host import Host
from weft.types import Adapter, Bank, Factors, Mixture

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, tuple[PreTrainedConfig, list[str]]] = {
    "llama": (LlamaConfig(**SIZES), ["q_proj", "v_proj", "down_proj"]),
    "qwen3": (Qwen3Config(**SIZES, head_dim=8), ["q_proj", "o_proj", "up_proj"]),
    "mistral": (MistralConfig(**SIZES, sliding_window=4), ["k_proj", "v_proj", "gate_proj"]),
    "gemma3": (Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4), ["q_proj", "v_proj", "down_proj"]),
    "phi3": (Phi3Config(**SIZES), ["qkv_proj", "gate_up_proj"]),
    "gpt2": (
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2),
        ["c_attn", "c_fc", "c_proj"],
    ),
    "qwen3_moe": (
        Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
        ["q_proj", "k_proj", "v_proj", "o_proj"],
    ),
}
VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    # The second pattern also matches the first's module: PEFT takes the first.
    "patterns": {
        "rank_pattern": {r"1\..*\.{0}": 6, "{0}": 2},
        "alpha_pattern": {r"(h|layers)\.0\..*": 3, "{0}": 5},
        "use_rslora": True,
    },
}
pytestmark = [
    # PEFT notices by itself that a Conv1D is transposed, and says so; a folder from us does not know.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def base_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        copy.deepcopy(MODELS[name][0]), attn_implementation="eager"
    ).eval()


def peft_of(name: str, variant: str, *, seed: int = 1, rank: int = 4, alpha: int = 8) -> PeftModel:
    """A PEFT model with random, non-zero A and B."""
    targets = MODELS[name][1]
    options = dict(VARIANTS[variant])
    for key in ("rank_pattern", "alpha_pattern"):
        if key in options:
            options[key] = {p.replace("{0}", targets[0]): value for p, value in options[key].items()}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        fan_in_fan_out=name == "gpt2",
        **options,
    )
    model = get_peft_model(base_of(name), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def ids_BT(rows: int = 2) -> Tensor:
    return torch.randint(3, 64, (rows, 7), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: nn.Module | Host, *args: object, **kwargs: object) -> Tensor:
    return model(*args, **kwargs).logits


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_folder_runs_alike_and_comes_back_byte_for_byte(name: str, variant: str, tmp_path: Path) -> None:
    model = peft_of(name, variant)
    model.save_pretrained(tmp_path / "theirs")
    expected = logits(model, input_ids=ids_BT())
    adapter = load(tmp_path / "theirs")
    host = Host(base_of(name))

    torch.testing.assert_close(logits(host, ids_BT(), Mixture.of(adapter)), expected, rtol=1e-5, atol=1e-5)
    assert (expected - logits(host, ids_BT())).abs().max() > 1e-2, "the adapter should do something"

    save(adapter, tmp_path / "ours")
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert tensor.dtype == ours[key].dtype
        assert tensor.numpy().tobytes() == ours[key].numpy().tobytes()
    configs = [json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("theirs", "ours")]
    assert configs[0] == configs[1]
    again = PeftModel.from_pretrained(base_of(name), tmp_path / "ours").eval()
    assert torch.equal(logits(again, input_ids=ids_BT()), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_factors_of_another_precision_lose_nothing(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = peft_of(name, "patterns")  # scalings that no half holds
    model.save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    half = {key: tensor.to(dtype if "lora_A" in key else torch.float32) for key, tensor in tensors.items()}
    for folder, stored in (("a", {k: t.to(dtype) for k, t in tensors.items()}), ("b", half)):
        if folder == "b":
            shutil.copytree(tmp_path / "a", tmp_path / "b")
        save_file(stored, tmp_path / folder / "adapter_model.safetensors")
        expected = logits(
            PeftModel.from_pretrained(base_of(name), tmp_path / folder).eval(), input_ids=ids_BT()
        )
        host, adapter = Host(base_of(name)), load(tmp_path / folder)
        torch.testing.assert_close(
            logits(host, ids_BT(), Mixture.of(adapter)), expected, rtol=1e-5, atol=1e-5
        )
        wide = Adapter({s: Factors(f.a_RI.float(), f.b_OR.float(), 1.0) for s, f in adapter.factors.items()})
        for order in ([adapter, wide], [wide, adapter]):
            bank = Bank.stack(order)
            for site in bank.sites:
                k = order.index(wide)
                assert torch.equal(
                    bank.a[site][k, : wide.factors[site].a_RI.shape[0]].float(), wide.factors[site].a_RI
                )


@pytest.mark.parametrize("name", MODELS)
def test_peft_runs_what_weft_made(name: str, tmp_path: Path) -> None:
    host = Host(base_of(name), target_modules=MODELS[name][1])
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for i, site in enumerate(host.sites[:-1]):  # not every module of a kind, ranks and scalings all over
        rank = 1 + i % 3
        a_RI = torch.randn(rank, site.in_features, generator=generator) * 0.2
        b_OR = torch.randn(site.out_features, rank, generator=generator) * 0.2
        factors[site] = Factors(a_RI, b_OR, (1.0, 0.3, -2.5)[i % 2 + i // 3 % 2])
    adapter = Adapter(factors)
    save(adapter, tmp_path / "ours")

    expected = logits(host, ids_BT(), Mixture.of(adapter))
    model = PeftModel.from_pretrained(base_of(name), tmp_path / "ours").eval()
    torch.testing.assert_close(logits(model, input_ids=ids_BT()), expected, rtol=1e-5, atol=1e-5)
    again = load(tmp_path / "ours")
    assert again.factors.keys() == adapter.factors.keys(), "sites from a folder are those of the host"
    for site, (a_RI, b_OR, scaling) in again.factors.items():
        assert torch.equal(a_RI, adapter.factors[site].a_RI)
        assert torch.equal(b_OR, adapter.factors[site].b_OR)
        assert scaling == pytest.approx(adapter.factors[site].scaling, rel=1e-15)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_mixed_batch_of_differing_ranks_and_alphas(name: str, tmp_path: Path) -> None:
    peft_of(name, "patterns", seed=4, rank=4, alpha=8).save_pretrained(tmp_path / "a")
    peft_of(name, "plain", seed=5, rank=7, alpha=3).save_pretrained(tmp_path / "b")
    model = PeftModel.from_pretrained(base_of(name), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", adapter_name="b")
    expected = logits(model.eval(), input_ids=ids_BT(4), adapter_names=["b", "a", "__base__", "b"])

    bank = Bank.stack([load(tmp_path / "a"), load(tmp_path / "b")])
    got = logits(Host(base_of(name)), ids_BT(4), Mixture.rows(bank, [1, 0, None, 1]))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
