from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tiny_models import make_llama
from weft.adapters import fingerprint
from weft.errors import ConfigError, MissingExtraError, MissingFileError, UnknownNameError
from weft.host import Host

IDS = torch.arange(12).view(2, 6) + 3


@pytest.fixture
def folder(tmp_path):
    make_llama().save_pretrained(tmp_path / "base")
    core = Tokenizer(models.WordLevel({"<unk>": 0, "a": 3, "b": 4}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_local_folder(folder):
    host = Host.from_pretrained(folder, target_modules=["q_proj"])
    want = make_llama()
    assert torch.equal(host(IDS).logits, want(IDS).logits)
    assert host.tokenizer("ab")["input_ids"] == [3, 4]
    assert host.fingerprint == Host(want).fingerprint
    assert (host.name, len(host.sites)) == (str(folder), 2)
    assert not host.module.training
    assert not any(parameter.requires_grad for parameter in host.module.parameters())


def test_precision(folder):
    assert Host.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
    half = Host.from_pretrained(folder, dtype=torch.bfloat16)
    half.module.save_pretrained(folder / "half")
    assert Host.from_pretrained(folder / "half").dtype == torch.bfloat16
    assert Host.from_pretrained(folder / "half").tokenizer is None
    assert Host.from_pretrained(folder / "half", dtype="float32").dtype == torch.float32


def test_an_embedded_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("weft.files.embedded_folder", lambda: tmp_path)
    assert Host.from_pretrained("weft/base").name == "weft/base"
    with pytest.raises(UnknownNameError, match="did you mean weft/base"):
        Host.from_pretrained("weft/bse")


def test_nothing_is_there(tmp_path):
    with pytest.raises(MissingFileError, match="no model nobody/nothing"):
        Host.from_pretrained("nobody/nothing")
    with pytest.raises(MissingFileError, match=r"lacks config\.json$"):
        Host.from_pretrained(tmp_path)
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10/config.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"there are models inside, name one \(.*checkpoint-10\)"):
        Host.from_pretrained(tmp_path)


def test_an_adapter_is_no_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x"}))
    with pytest.raises(MissingFileError, match="holds an adapter; name the base"):
        Host.from_pretrained(tmp_path)


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(make_llama().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(MissingFileError, match="safetensors"):
        Host.from_pretrained(folder)


def test_damaged_and_missing_weights(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingFileError, match="damaged"):
        Host.from_pretrained(folder)
    file.write_bytes(whole)
    state = load_file(file)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(MissingFileError, match=r"lack 1 tensors, model\.layers\.1\.mlp\.up_proj\.weight"):
        Host.from_pretrained(folder)


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", b"\xef\xbb\xbf{}", "config.json begins with a byte order mark"),
        ("config.json", b"{", "config.json is not valid JSON"),
        ("config.json", b"[1]", r"config.json should hold keys and values, it holds \[1\]"),
        ("config.json", {"num_attention_heads": 7}, "cannot be loaded, .*not a multiple of the number"),
        ("config.json", {"hidden_size": "32"}, "cannot be loaded, .*expected int, got str"),
        ("config.json", {"vocab_size": 1000}, r"does not fit its weights: .*\[\d+, 32\].*\[1000, 32\]"),
        ("config.json", {"pad_token_id": 64}, "cannot be loaded, .*Padding_idx must be within"),
        ("config.json", {"model_type": "llava"}, "no causal language model: .* of the type 'llava'"),
        ("config.json", {"dtype": "float99"}, "cannot be loaded, .*float99"),
        ("generation_config.json", b"[]", "generation_config.json should hold keys and values"),
        ("generation_config.json", b"{", "generation_config.json is not valid JSON"),
        ("tokenizer_config.json", b"\xff\xfe", "tokenizer_config.json: byte 0xff is not UTF-8"),
        (
            "generation_config.json",
            {"max_new_tokens": -5},
            "see whether its config is right .*max_new_tokens",
        ),
        ("tokenizer_config.json", {"model_max_length": "512"}, "model_max_length is '512', it should be a n"),
        ("tokenizer_config.json", {"tokenizer_class": 3}, "the tokenizer of .* cannot be read"),
        ("tokenizer.json", b"[]", "the tokenizer of .* cannot be read"),
        ("tokenizer.json", b"{", "the tokenizer of .* cannot be read"),
        ("tokenizer.json", b'{"added_tokens": []}', "the tokenizer of .* cannot be read"),
        (INDEX, b'{"weight_map": {}}', "no index of shards"),
        (INDEX, b'{"metadata": {}, "weight_map": {"x": "../x.safetensors"}}', "which is no file beside it"),
        (INDEX, b'{"metadata": {}, "weight_map": {"x": 3}}', "names the shard 3, which is no file"),
    ],
)
def test_a_damaged_file_of_a_base_is_one_line(file, change, said, folder):
    if isinstance(change, bytes):
        (folder / file).write_bytes(change)
    else:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    with pytest.raises(ConfigError, match=said) as caught:
        Host.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.model", "config.json", "s.safetensors"])
def test_a_pointer_in_place_of_a_file_is_named(file, folder):
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(MissingFileError, match=f"{file} is a git-lfs pointer.*run git lfs pull"):
        Host.from_pretrained(folder)


def test_a_quantised_base_names_the_package_that_it_needs(folder):
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config | quantised))
    with pytest.raises(MissingExtraError, match=r"needs a package that is not here: .*optimum"):
        Host.from_pretrained(folder)


FP8 = {"quant_method": "fp8", "activation_scheme": "static"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, r"in a way that its config does not tell, .*up_proj\.weight_scale has no place"),
        ({"quantization_config": FP8}, r"up_proj\.weight_scale has no place"),
        (
            {"quantization_config": {"quant_method": "modelopt"}},
            "quantised by 'modelopt', which transformers",
        ),
        ({"quantization_config": {"bits": 4}}, "quantised by mlx-lm or alike"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantised by mlx-lm or alike"),
    ],
)
def test_quantised_weights_are_not_read_as_plain_numbers(values, said, folder):
    from safetensors.torch import load_file, save_file

    state, name = load_file(folder / "model.safetensors"), "model.layers.1.mlp.up_proj.weight"
    state |= {name: state[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.tensor(0.1)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(ConfigError, match=said):
        Host.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model-00001-of-00002.safetensors", "is a shard of it, and .*index.json is missing"),
        ("model.fp16.safetensors", "model.fp16.safetensors is no name that transformers reads"),
        ("model-q4.gguf", "a GGUF file of llama.cpp is not read"),
        ("consolidated.00.pth", "consolidated.00.pth is a pickle"),
        ("training_args.bin", "there are no weights"),
    ],
)
def test_weights_under_another_name_are_named(name, said, folder):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(MissingFileError, match=f"has no model.safetensors: .*{said}"):
        Host.from_pretrained(folder)


def test_a_shard_that_is_not_there_is_named(folder):
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"x": "model-2-of-2.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(MissingFileError, match=r"names the shard model-2-of-2.safetensors, which is not th"):
        Host.from_pretrained(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_folder_is_not_run_unasked(file, folder):
    values = json.loads((folder / file).read_text())
    auto_map = {"AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer", None]}
    values |= {"auto_map": auto_map, "model_type": "its_own", "tokenizer_class": "ItsOwn"}
    (folder / file).write_text(json.dumps(values))
    (folder / "code.py").write_text("raise SystemExit(1)")
    with pytest.raises(ConfigError, match=r"comes with code of its own .* is not run unasked"):
        Host.from_pretrained(folder)


@pytest.mark.parametrize(("first", "package"), [(b"\n\x0e", "sentencepiece"), (b"IQ== 0\n", "tiktoken")])
def test_a_tokenizer_names_the_package_that_it_needs(first, package, folder, monkeypatch):
    monkeypatch.setattr("weft.host.load.find_spec", lambda _: None)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(first)
    with pytest.raises(MissingExtraError, match=f"tokenizer.model needs the package {package}"):
        Host.from_pretrained(folder)


def test_a_config_that_asks_for_more_is_run_and_saved(folder, tmp_path):
    want = Host.from_pretrained(folder)(IDS).logits
    config = json.loads((folder / "config.json").read_text())
    asked = {"return_dict": False, "output_attentions": True}
    (folder / "config.json").write_text(json.dumps(config | asked))
    host = Host.from_pretrained(folder)
    assert torch.equal(host(IDS).logits, want)
    host.module.save_pretrained(tmp_path / "saved")


def test_no_language_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ConfigError, match="no causal language model"):
        Host.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "model_type"}))
    with pytest.raises(ConfigError, match="no causal language model"):
        Host.from_pretrained(folder)


def test_a_base_beside_an_adapter_is_refused(folder):
    """Transformers would put the adapter into the network unasked."""
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x"}))
    with pytest.raises(ConfigError, match=r"base holds an adapter \(adapter_config.json\) beside the base"):
        Host.from_pretrained(folder)


def test_a_hub_id_of_an_adapter_is_refused(monkeypatch):
    """A PEFT repository names its base, and transformers would load both."""
    monkeypatch.setattr(
        "weft.host.load.find_adapter_config_file", lambda name, revision: f"{name}/{revision}"
    )
    with pytest.raises(ConfigError, match="nobody/lora holds an adapter"):
        Host.from_pretrained("nobody/lora", revision="main")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float32])
def test_the_fingerprint_is_of_the_stored_weights(folder, dtype):
    """An adapter of a float32 base runs on it in float16 too."""
    stored = Host.from_pretrained(folder)
    assert stored.dtype == torch.float32
    host = Host.from_pretrained(folder, dtype=dtype)
    assert host.fingerprint == stored.fingerprint
    assert fingerprint(host.module) == stored.fingerprint
    with torch.no_grad():
        host.module.model.layers[0].mlp.up_proj.weight.view(-1)[0].add_(0.5)
    assert fingerprint(host.module) != stored.fingerprint


def test_a_copy_that_was_saved_in_float16_is_another_base(folder):
    Host.from_pretrained(folder, dtype="float16").module.save_pretrained(folder / "half")
    assert Host.from_pretrained(folder / "half").fingerprint != Host.from_pretrained(folder).fingerprint
