"""Folders as other programs write them: what PEFT runs, we run alike; the rest is refused by name."""

import json
import time
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from tiny_models import make_llama
from weft import Host, Mixture, load, save
from weft.adapters import check_copies, site_at
from weft.errors import AdapterFormatError, BaseCopyWarning, UnknownNameError, UnsupportedAdapterError
from weft.host import fitted
from weft.types import Adapter, Factors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SLOW = "(?:(?=(.*))(?:.|..|...)*)*[^a-z]{2}"
IDS = torch.arange(3, 11)[None]


def peft_folder(folder: Path, *targets: str, **options: object) -> Path:
    """What PEFT writes for a tiny llama, with factors that are not zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=2, lora_alpha=6, target_modules=list(targets), **options)
        model = get_peft_model(make_llama(), config)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


@torch.no_grad()
def peft_logits(folder: Path) -> torch.Tensor:
    """Of the tiny llama under a folder, by PEFT, which warns of what we refuse or leave out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(make_llama(), folder)(IDS).logits


def with_config(folder: Path, **values: object) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": r".*\.0\.self_attn\.(q|v)_proj"},
        {"target_modules": ["model.layers.1.self_attn.v_proj", "down_proj"]},
        {"exclude_modules": ["v_proj"]},
        {"exclude_modules": r"model\.layers\.1\..*"},
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {
            "layers_to_transform": 0,
            "layers_pattern": ["blocks"],
            "target_modules": ["q_proj", "model.layers.1.mlp.down_proj"],
        },
        {
            "rank_pattern": {"q_pr.j": 2},
            "alpha_pattern": {"1.self_attn.v_proj": 1, "^model.*q_proj": 3},
        },
    ],
)
def test_the_config_chooses_modules_as_in_peft(values: dict[str, object], tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "x", "q_proj", "v_proj", "down_proj")
    with_config(folder, **values)
    if "rank_pattern" in values:
        adapter = load(folder)
    else:
        with pytest.warns(UserWarning, match="left out .* modules that adapter_config.json does not choose"):
            adapter = load(folder)
    theirs = peft_logits(folder)
    ours = Host(make_llama())(IDS, Mixture.of(adapter)).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert not torch.equal(ours, Host(make_llama())(IDS).logits)
    save(adapter, tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.factors.keys() == adapter.factors.keys()


def test_a_config_that_chooses_nothing_is_refused(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "x", "q_proj")
    with_config(folder, target_modules=["gate_proj"])
    with pytest.raises(AdapterFormatError, match="chooses none of its modules"):
        load(folder)
    for key, value in (("target_modules", 3), ("exclude_modules", {"a": 1}), ("layers_to_transform", ["x"])):
        with_config(folder, target_modules=["q_proj"])
        with_config(folder, **{key: value})
        with pytest.raises(AdapterFormatError, match=key):
            load(folder)
        with_config(folder, **{key: None})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank_pattern": {SLOW: 2}}, "takes too long"),
        ({"target_modules": SLOW}, "takes too long"),
        ({"layers_to_transform": [0], "layers_pattern": SLOW}, "takes too long"),
        ({"target_modules": "(([a-z_.0-9])+)+!"}, "chooses none"),
        ({"alpha_pattern": {f"(a{i}|b+)+c": 2 for i in range(30_000)}}, "30000 patterns, at most 4096"),
        ({"rank_pattern": {"q" * 100_000: 2}}, "of 1000 characters are read"),
        ({"rank_pattern": {"(" * 900: 2}}, "not a regular expression"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "the alpha of .* is a number of 1329 bits"),
        ({"r": 10**30}, "the rank|expected"),
    ],
)
def test_patterns_of_strangers_are_bounded(values: dict[str, object], message: str, tmp_path: Path) -> None:
    site = site_at("model.layers.0.self_attn.qqqqqqqqqqqqqqqqqqqqqqqq.q_proj", 6, 4)
    save(Adapter({site: Factors(torch.ones(2, 6), torch.ones(4, 2), 1.0)}), tmp_path / "x")
    with_config(tmp_path / "x", target_modules=["q_proj"])
    with_config(tmp_path / "x", **values)
    start = time.monotonic()
    with pytest.raises(AdapterFormatError, match=message) as caught:
        load(tmp_path / "x")
    assert time.monotonic() - start < 10
    assert len(str(caught.value)) < 1000


def test_a_head_and_the_copy_of_it_that_peft_saves(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "x", "q_proj", "lm_head")
    tensors = load_file(folder / WEIGHTS)
    copies = [key for key in tensors if ".lora_" not in key]
    assert copies
    with pytest.warns(BaseCopyWarning, match="not read: a copy of base weights"):
        adapter = load(folder)
    assert "lm_head" in {site.path for site in adapter.sites}
    base = make_llama()
    check_copies(folder, base)
    host = Host(base, target_modules=["all-linear", "lm_head"])
    theirs = peft_logits(folder)
    torch.testing.assert_close(host(IDS, Mixture.of(adapter)).logits, theirs, atol=1e-5, rtol=0)
    save_file({k: v.bfloat16() if k in copies else v for k, v in tensors.items()}, folder / WEIGHTS)
    check_copies(folder, base)  # as training in bfloat16 leaves them
    for wrong in (tensors[copies[0]] + 1e-3, tensors[copies[0]][:-1]):
        save_file(tensors | {copies[0]: wrong.contiguous()}, folder / WEIGHTS)
        with pytest.raises(UnsupportedAdapterError, match="is not the base's own weight"):
            check_copies(folder, base)


def mlx_folder(folder: Path, adapter: Adapter, scale: float, **values: object) -> Path:
    folder.mkdir()
    tensors = {}
    for site, (a_RI, b_OR, _) in adapter.factors.items():
        tensors |= {f"{site.path}.lora_a": a_RI.T.contiguous(), f"{site.path}.lora_b": b_OR.T.contiguous()}
    save_file(tensors, folder / "adapters.safetensors")
    options = {"rank": 2, "scale": scale, "dropout": 0.0}
    config = {"fine_tune_type": "lora", "model": "org/base", "num_layers": 2, "lora_parameters": options}
    (folder / CONFIG).write_text(json.dumps(config | values))
    return folder


def test_a_folder_of_mlx(tmp_path: Path) -> None:
    """y = W x + scale * (x a) b, with a: [in, R] and b: [R, out]."""
    base = make_llama()
    site = next(site for site in Host(base).sites if site.module == "q_proj")
    a_RI, b_OR = torch.randn(2, site.in_features), torch.randn(site.out_features, 2)
    folder = mlx_folder(tmp_path / "mlx", Adapter({site: Factors(a_RI, b_OR, 1.0)}), 20.0)
    adapter = load(folder)
    assert adapter.factors[site].scaling == 20.0
    x_I = torch.randn(site.in_features)
    want = 20.0 * (x_I @ a_RI.T) @ b_OR.T
    got = adapter.factors[site].scaling * adapter.factors[site].b_OR @ (adapter.factors[site].a_RI @ x_I)
    torch.testing.assert_close(got, want)
    save(adapter, tmp_path / "peft")
    assert json.loads((tmp_path / "peft" / CONFIG).read_text())["base_model_name_or_path"] == "org/base"
    theirs = peft_logits(tmp_path / "peft")
    torch.testing.assert_close(Host(base)(IDS, Mixture.of(adapter)).logits, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fine_tune_type": "dora"}, "fine_tune_type is 'dora'"),
        ({"lora_parameters": {"rank": 2}}, "scale is None"),
        ({"lora_parameters": {"scale": 1e308}}, "makes torch.float32 numbers"),
        ({"lora_parameters": 3}, "scale is None"),
    ],
)
def test_what_a_folder_of_mlx_may_not_say(values: dict[str, object], message: str, tmp_path: Path) -> None:
    site = site_at("model.layers.0.self_attn.q_proj", 6, 4)
    adapter = Adapter({site: Factors(torch.ones(2, 6), torch.full((4, 2), 3.0), 1.0)})
    folder = mlx_folder(tmp_path / "mlx", adapter, 2.0, **values)
    with pytest.raises((AdapterFormatError, UnsupportedAdapterError), match=message):
        load(folder)


OLD = {
    "language_model.model.layers.0.self_attn.q_proj": "model.language_model.layers.0.self_attn.q_proj",
    "language_model.lm_head": "lm_head",
}


@pytest.mark.parametrize("old", OLD)
def test_modules_under_their_names_of_an_older_release(old: str, tmp_path: Path) -> None:
    """transformers says what was renamed. PEFT follows it for the layers and loses a head."""
    host = Host(make_llava(), target_modules=["all-linear", "lm_head"])
    sites = {site.path: site for site in host.sites}
    there = sites[OLD[old]]
    site = site_at(old, there.in_features, there.out_features)
    factors = Factors(torch.randn(2, site.in_features), torch.randn(site.out_features, 2), 0.5)
    save(Adapter({site: factors}), tmp_path / "old")
    with_config(tmp_path / "old", target_modules=[site.module])
    adapter = fitted(load(tmp_path / "old"), host)
    assert adapter.sites == (there,)
    ours = host(IDS, Mixture.of(adapter)).logits
    assert not torch.equal(host(IDS).logits, ours)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(make_llava(), tmp_path / "old")(input_ids=IDS).logits
    want = theirs if there.layer >= 0 else host(IDS, Mixture.of(Adapter({there: factors}))).logits
    torch.testing.assert_close(ours, want, atol=1e-4, rtol=0)


def test_a_module_that_is_nowhere_stays_unknown() -> None:
    other = Adapter({site_at("other.q_proj", 4, 4): Factors(torch.ones(1, 4), torch.ones(4, 1), 1.0)})
    with pytest.raises(UnknownNameError, match=r"changes other.q_proj, which this model does not offer"):
        fitted(other, Host(make_llava()))


def make_llava() -> LlavaForConditionalGeneration:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=8, patch_size=4)
    torch.manual_seed(0)
    config = LlavaConfig(text_config=make_llama().config, vision_config=vision, image_token_id=63)
    return LlavaForConditionalGeneration(config).eval()
