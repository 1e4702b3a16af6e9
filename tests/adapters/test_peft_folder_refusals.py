import errno
import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.adapters import load, save, site_at
from weft.errors import AdapterFormatError, ConfigError, MissingFileError, SaveError, UnsupportedAdapterError
from weft.reading import shown
from weft.types import Adapter, Factors

PREFIX = "base_model.model.model.layers.0.q_proj"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = site_at("model.layers.0.q_proj", 64, 48)
    save(Adapter({site: Factors(torch.ones(4, 64), torch.ones(48, 4), 1.0)}), tmp_path / "good")
    return tmp_path / "good"


def with_config(folder: Path, **values: object) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def with_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors by their key below the module; None takes one away."""
    tensors = load_file(folder / WEIGHTS)
    for key, tensor in changes.items():
        tensors.pop(f"{PREFIX}.{key.replace('__', '.')}", None)
        if tensor is not None:
            tensors[f"{PREFIX}.{key.replace('__', '.')}"] = tensor
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("target_parameters", ["mlp.experts.down_proj"]),
        ("alora_invocation_tokens", [5, 6]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"r": 1}),
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
    ],
)
def test_variants_are_refused_by_name(folder: Path, key: str, value: object) -> None:
    with_config(folder, **{key: value})
    with pytest.raises(UnsupportedAdapterError) as caught:
        load(folder)
    message = str(caught.value)
    assert str(folder / CONFIG) in message
    assert f"{key} is {shown(value)}" in message
    assert "\n" not in message


def test_a_plain_lora_that_says_no_to_every_variant_is_read(folder: Path) -> None:
    with_config(folder, use_dora=False, bias="none", modules_to_save=[], init_lora_weights="gaussian")
    with_config(folder, velora_config={"num_groups": 2})  # changes the backward pass only
    assert load(folder).rank == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 0}, "the rank of model.layers.0.q_proj is 0"),
        ({"r": "4"}, "the rank of model.layers.0.q_proj is '4'"),
        ({"r": 4.0}, "the rank of model.layers.0.q_proj is 4.0"),
        ({"lora_alpha": "8"}, "the alpha of model.layers.0.q_proj is '8'"),
        ({"lora_alpha": float("nan")}, "the alpha of model.layers.0.q_proj is nan"),
        ({"rank_pattern": ["q_proj"]}, r"rank_pattern is \['q_proj'\]"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern is {'q_proj': '4'}"),
        ({"alpha_pattern": {"q_(": 4}}, "not a regular expression"),
        ({"task_type": "COOKING"}, "Invalid task type: 'COOKING'"),
        ({"alpha_pattern": {"q_proj": 1e308}}, "a scaling of 2.5e\\+307 makes torch.float32 numbers"),
        ({"r": 5}, r"A is \(4, 64\) and B is \(48, 4\), expected \[5, in\] and \[out, 5\]"),
        ({"rank_pattern": {"q_proj": 2}}, r"expected \[2, in\]"),
    ],
)
def test_wrong_config_values(folder: Path, values: dict[str, object], message: str) -> None:
    with_config(folder, **values)
    with pytest.raises(AdapterFormatError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"lora_magnitude_vector__weight": torch.ones(48)}, UnsupportedAdapterError, "a DoRA magnitude"),
        ({"lora_B__bias": torch.ones(48)}, UnsupportedAdapterError, "a bias"),
        ({"lora_embedding_A": torch.ones(4, 9)}, UnsupportedAdapterError, "an embedding LoRA"),
        ({"lora_C__weight": torch.ones(3)}, UnsupportedAdapterError, "no lora_A or lora_B weight"),
        ({"lora_A__default__weight": torch.ones(4, 64)}, UnsupportedAdapterError, "names its adapter; write"),
        ({"lora_A__weight": torch.ones(4, 64).to(torch.int8)}, UnsupportedAdapterError, "is I8"),
        ({"lora_B__weight": None}, AdapterFormatError, "has lora_A and not the other half"),
        ({"lora_A__weight": None}, AdapterFormatError, "has lora_B and not the other half"),
        ({"lora_A__weight": None, "lora_B__weight": None}, AdapterFormatError, "holds no lora_A"),
        ({"lora_A__weight": torch.ones(3, 64)}, AdapterFormatError, r"A is \(3, 64\) and B is \(48, 4\)"),
        ({"lora_A__weight": torch.ones(256)}, AdapterFormatError, r"A is \(256,\)"),
        ({"lora_A__weight": torch.ones(4, 8, 1, 8)}, AdapterFormatError, r"A is \(4, 8, 1, 8\)"),
        ({"lora_A__weight": torch.ones(4, 0)}, AdapterFormatError, r"A is \(4, 0\)"),
        ({"lora_B__weight": torch.full((48, 4), torch.nan)}, AdapterFormatError, "NaN or infinity"),
        ({"lora_A__weight": torch.full((4, 64), torch.inf)}, AdapterFormatError, "NaN or infinity"),
        (
            {"lora_B__weight": torch.ones(48, 4).to(torch.float8_e4m3fn)},
            UnsupportedAdapterError,
            "is F8_E4M3",
        ),
    ],
)
def test_wrong_tensors(
    folder: Path, changes: dict[str, torch.Tensor | None], kind: type[Exception], message: str
) -> None:
    with_tensors(folder, **changes)
    with pytest.raises(kind, match=message) as caught:
        load(folder)
    assert str(folder / WEIGHTS) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key: key.removeprefix("base_model.model."), r"without the base_model\.model\. that PEFT"),
        (lambda key: key.replace("q_proj", "_fsdp_wrapped_module.q_proj"), "wrapped as _fsdp_wrapped_module"),
        (lambda key: key.replace("model.layers", "_orig_mod.model.layers"), "wrapped as _orig_mod"),
        (lambda key: f"base_model.model.{key}", r"with base_model\.model\. twice; take one out"),
        (lambda key: f"module.{key}", r"without the base_model\.model\. that PEFT"),
        (lambda key: key.replace(".weight", ".mine.weight"), "names its adapter; write the folder"),
        (
            lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
            "kohya's or diff",
        ),
        (lambda key: key.replace("lora_A", "modules_to_save.default"), "was trained whole"),
    ],
)
def test_keys_of_other_programs_are_named(change: Callable[[str], str], message: str, folder: Path) -> None:
    tensors = {change(key): tensor for key, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UnsupportedAdapterError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_huge_rank_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = 8193
    with_tensors(folder, lora_A__weight=torch.full((rank, 1), torch.nan), lora_B__weight=torch.ones(1, rank))
    with_config(folder, r=rank)
    with pytest.raises(AdapterFormatError, match="has rank 8193, a folder holds 1 to 8192"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], r"holds \d+ bytes of tensors, its header speaks of"),
        (lambda raw: raw + b"more", r"holds \d+ bytes of tensors, its header speaks of"),
        (lambda raw: raw[:40], "cut short"),
        (lambda raw: raw[:4], "cut short"),
        (lambda raw: b"", "cut short"),
        (lambda raw: (2**60).to_bytes(8, "little") + raw[8:], "cut short"),
        (lambda raw: (2**20).to_bytes(8, "little") + raw[8:], "cut short"),
        (lambda raw: raw.replace(b'"F32"', b'"F99"', 1), "unknown dtype 'F99'"),
        (
            lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "git-lfs pointer in place of the file; run git lfs pull",
        ),
    ],
)
def test_damaged_safetensors(folder: Path, change: Callable[[bytes], bytes], message: str) -> None:
    file = folder / WEIGHTS
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(AdapterFormatError, match=message) as caught:
        load(folder)
    assert str(file) in str(caught.value)


def test_missing_parts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no adapter folder at .*nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"no such file: .*empty/adapter_config.json"):
        load(tmp_path / "empty")
    (folder / WEIGHTS).unlink()
    with pytest.raises(MissingFileError, match=r"no such file: .*good/adapter_model.safetensors"):
        load(folder)
    (folder / "adapter_model.safetensors.index.json").write_text("{}")
    with pytest.raises(AdapterFormatError, match="keeps its weights in several files"):
        load(folder)


def test_a_pickle_is_never_read(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(AdapterFormatError, match=r"adapter_model.bin is a pickle, .* never read"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\udcff"])
def test_invalid_config_file(folder: Path, text: str) -> None:
    (folder / CONFIG).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises((ConfigError, AdapterFormatError), match=r"adapter_config.json") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_invalid_provenance(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"weft_provenance": "{"})
    with pytest.raises(AdapterFormatError, match="its provenance: not valid JSON"):
        load(folder)
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"weft_base": "x" * 100_000})
    with pytest.raises(AdapterFormatError, match="is no fingerprint, it is too long") as caught:
        load(folder)
    assert len(str(caught.value)) < 500


def full_disk(self: Path, data: bytes) -> int:
    with self.open("wb") as handle:
        handle.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_folder_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    adapter = load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(SaveError, match=r"could not write .*good: No space left on device") as caught:
            save(adapter, folder)
    assert "untouched" in str(caught.value)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == ["good"], "nothing half-written stays behind"


def test_a_file_too_large_for_the_system_leaves_the_old_folder_whole(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    site = site_at("model.layers.0.q_proj", 1000, 1000)
    large = Adapter({site: Factors(torch.ones(9, 1000), torch.ones(1000, 9), 1.0)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(SaveError, match="File too large"):
            save(large, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == ["good"]
