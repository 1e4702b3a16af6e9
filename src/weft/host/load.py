"""Reading a causal language model and its tokenizer from a name of Weft's, a folder or the Hub."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils.peft_utils import find_adapter_config_file

from weft.adapters import fingerprint, stored_as
from weft.errors import ConfigError, MissingExtraError, MissingFileError, WeftError
from weft.files import folders_with, nearest, resolve
from weft.host.bars import no_bars
from weft.host.fetch import fetch_model
from weft.plain import reason_of
from weft.reading import POINTER, decode, parse_json, read_bytes, read_json, refuse_pointer, shown
from weft.registry import NAMED

_HOLDS_ADAPTER = (
    "holds an adapter (adapter_config.json) beside the base, and both would load as one network; "
    "move the adapter's files to a folder of their own and name it as the adapter"
)
_TOKENIZER = (
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "tekken.json",
)
_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", _INDEX)
_PICKLES = ("pytorch_model*.bin", "consolidated*.pth", "*.ckpt")
_OF_QUANTISED = ("scale", "scale_inv", "scale_2", "scales", "qweight", "packed", "absmax", "quant_map", "SCB")
"""How the names of tensors end that stand beside packed weights, behind a dot or `weight_`."""
RAISED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    StrictDataclassError,
)
"""What transformers raises on configs and weights that do not fit each other, besides what it means to."""
_DTYPES = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and value.is_floating_point
}


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype,
    device: str | torch.device,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, Any]:
    """The model, in evaluation mode on `device`, and its tokenizer: None for a local folder that holds none.

    A name such as `weft/smollm2` is fetched on its first use, with what `fetch_model` raises.

    Weights are read from safetensors alone, never from pickles. Raises MissingFileError when nothing is there
    or weights are missing or damaged, ConfigError for something that is no causal language model, for code of
    its own that nobody allowed, for quantised weights that nothing here reads, for a base beside an adapter,
    and for a dtype or device that cannot be used, UnknownNameError for an embedded name, MissingExtraError
    for a package that the weights need.
    """
    _check_dtype(dtype)
    _check_device(device)
    name = os.fspath(name_or_path)
    if name in NAMED and not Path(name).is_dir():
        fetch_model(NAMED[name])
    folder = resolve(name)
    if folder is not None:
        _check_folder(folder)
        _check_files(folder)
        _check_weights(folder)
    source = name if folder is None else str(folder)
    remote = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if folder is None and find_adapter_config_file(source, revision=revision) is not None:
            raise ConfigError(f"{source} {_HOLDS_ADAPTER}")
        with nullcontext() if folder is None else no_bars():
            model = _read(source, dtype, device, remote)
        tokenizer = None
        if folder is None or any((folder / name).is_file() for name in _TOKENIZER):
            tokenizer = _read_tokenizer(source, remote)
    except WeftError:
        raise
    except ImportError as error:
        raise MissingExtraError(f"{source} needs a package that is not here: {reason_of(error)}") from error
    except SafetensorError as error:
        raise MissingFileError(f"the weights of {source} are damaged: {error}; fetch them again") from error
    except OSError as error:
        where = "in that folder" if folder is not None else "there: no folder, nor within reach on the Hub"
        raise MissingFileError(f"no model {source} {where} ({reason_of(error)})") from error
    except RAISED as error:
        told = f"{type(error).__name__}: {reason_of(error)}"
        raise ConfigError(f"{source} cannot be loaded, see whether its config is right ({told})") from error
    return model.eval(), tokenizer


def _read_tokenizer(source: str, remote: dict[str, Any]) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **remote)
    except ImportError:
        raise
    except Exception as error:  # the library raises no kind of its own
        _refuse_code(source, error)
        _refuse_unread(Path(source), error)
        raise ConfigError(f"the tokenizer of {source} cannot be read: {reason_of(error)}") from error
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float):
        raise ConfigError(
            f"the tokenizer of {source}: model_max_length is {shown(longest)}, it should be a number"
        )
    return tokenizer


def _read(
    source: str, dtype: str | torch.dtype, device: str | torch.device, remote: dict[str, Any]
) -> PreTrainedModel:
    """The model; where it is cast, with the fingerprint of what is stored, at the cost of a second reading.

    Quantised weights are packed, not cast: their fingerprint is that of the model as it is loaded.
    """
    asked = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    config = _config(source, remote)
    if asked == "auto" or getattr(config, "quantization_config", None) is not None:
        return _read_as(source, asked, device, remote)
    # On the CPU: float32 weights that are wanted in half the size may not fit where the model is to run.
    stored = _read_as(source, "auto", "cpu", remote)
    if all(parameter.dtype == asked for parameter in stored.parameters()):
        return stored.to(device=device)  # pyright: ignore[reportCallIssue]: it knows no overload of its own
    found = fingerprint(stored)
    del stored
    model = _read_as(source, asked, device, remote)
    stored_as(model, found)
    return model


def _config(source: str, remote: dict[str, Any]) -> Any:
    """The config of a causal language model whose weights can be read. Raises ConfigError for another."""
    try:
        config = AutoConfig.from_pretrained(source, **remote)
    except ValueError as error:
        _refuse_code(source, error)
        raise ConfigError(f"{source} is no causal language model: {reason_of(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not hasattr(config, "auto_map"):
        raise ConfigError(
            f"{source} is no causal language model: transformers knows none of the type "
            f"{shown(config.model_type)}, only models of other kinds"
        )
    packed = getattr(config, "quantization_config", None) or getattr(config, "quantization", None)
    if packed and not _can_unpack(packed):
        told = shown(packed["quant_method"]) if "quant_method" in packed else "mlx-lm or alike"
        raise ConfigError(
            f"the weights of {source} are quantised by {told}, which transformers does not read; "
            "load the model in full precision"
        )
    return config


def _refuse_code(source: str, error: Exception) -> None:
    """Say in one line what transformers says in five of a config that names code."""
    if "custom code" in str(error):
        raise ConfigError(
            f"{source} comes with code of its own (auto_map in its configs), which is not run unasked; "
            "in Python, Host.from_pretrained(..., trust_remote_code=True) runs it"
        ) from error


def _refuse_unread(folder: Path, error: Exception) -> None:
    """Name the package that a tokenizer without tokenizer.json needs; transformers names tiktoken always."""
    models = [file for file in (folder / "tokenizer.model", folder / "spiece.model") if file.is_file()]
    if not models or (folder / "tokenizer.json").is_file():
        return
    with models[0].open("rb") as content:  # one of tiktoken is lines of text
        package = "sentencepiece" if content.read(1) == b"\n" else "tiktoken"
    if find_spec(package) is None:
        raise MissingExtraError(
            f"{models[0]} needs the package {package}, which is not here: install it, or bring the model's "
            "tokenizer.json"
        ) from error


def _can_unpack(packed: Any) -> bool:
    if not isinstance(packed, dict):
        return True
    try:
        return AutoHfQuantizer.supports_quant_method(packed)
    except ValueError:  # it names no method
        return False


def _read_as(
    source: str, dtype: str | torch.dtype, device: str | torch.device, remote: dict[str, Any]
) -> PreTrainedModel:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        device_map=device,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # else it raises an error that names no tensor
        **remote,
    )
    model, report = loaded
    if report["mismatched_keys"]:
        name, stored, wanted = min(report["mismatched_keys"])
        raise ConfigError(
            f"the config of {source} does not fit its weights: {name} has the shape {list(stored)}, "
            f"by the config it has {list(wanted)}"
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise MissingFileError(f"the weights of {source} lack {len(missing)} tensors, {missing[0]} first")
    stray = sorted(key for key in report["unexpected_keys"] if _is_of_quantised(key))
    if stray:
        raise ConfigError(
            f"the weights of {source} are quantised in a way that its config does not tell, {stray[0]} has "
            "no place; load the model in full precision"
        )
    # What a config may ask for beside logits, in tuples; nothing here reads it, and sdpa has no attentions.
    model.config.return_dict, model.config.output_attentions = True, False
    return model


def _is_of_quantised(key: str) -> bool:
    return key.rpartition(".")[2].removeprefix("weight_") in _OF_QUANTISED


def _check_folder(folder: Path) -> None:
    adapter, base = ((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    if adapter and base:
        raise ConfigError(f"{folder} {_HOLDS_ADAPTER}")
    if not base:
        what = "an adapter; name the base that it changes" if adapter else "no model: it lacks config.json"
        inside = folders_with(folder, "config.json")  # as trainers write checkpoints
        more = f"; there are models inside, name one ({inside[-1]})" if inside and not adapter else ""
        raise MissingFileError(f"{folder} holds {what}{more}")


def _check_files(folder: Path) -> None:
    """Raise for files that would end in an error without their name: pointers of git-lfs, damaged JSON.

    An index of shards may name files beside it alone.
    """
    for pattern in ("*.safetensors", "*.json", "*.jinja", "*.model", "additional_chat_templates/*.jinja"):
        for file in filter(Path.is_file, folder.glob(pattern)):
            with file.open("rb") as content:
                refuse_pointer(content.read(len(POINTER)), str(file))
    for file in filter(Path.is_file, (folder / name for name in _JSON)):
        content = read_bytes(file)
        if content.startswith(b"\xef\xbb\xbf"):
            raise ConfigError(f"{file} begins with a byte order mark; save it as UTF-8 without one")
        values = parse_json(decode(content, str(file)), str(file))
        if not isinstance(values, dict):
            raise ConfigError(f"{file} should hold keys and values, it holds {shown(values)}")
        if file.name == _INDEX:
            _check_index(file, values)


def _check_weights(folder: Path) -> None:
    """Raise MissingFileError for a folder without weights that transformers reads, naming what is there."""
    named = read_json(folder / "config.json").get("transformers_weights")
    if named or any((folder / name).is_file() for name in (_WHOLE, _INDEX)):
        return
    pickles = [file for pattern in _PICKLES for file in sorted(folder.glob(pattern))]
    others = sorted(folder.glob("*.safetensors"))
    shards = [file for file in others if "-of-" in file.name]
    if shards:
        there = f"{shards[0].name} is a shard of it, and {_INDEX} is missing; fetch that too"
    elif others:
        there = f"{others[0].name} is no name that transformers reads"
    elif any(folder.glob("*.gguf")):
        there = "a GGUF file of llama.cpp is not read; fetch the model's safetensors"
    elif pickles:
        there = f"{pickles[0].name} is a pickle, which can run code and is never read; save it as safetensors"
    else:
        there = "there are no weights"
    raise MissingFileError(f"{folder} has no {_WHOLE}: {there}")


def _check_index(file: Path, values: dict[str, Any]) -> None:
    places = values.get("weight_map")
    if not isinstance(places, dict) or not isinstance(values.get("metadata"), dict):
        raise ConfigError(f"{file} is no index of shards: it has no weight_map or no metadata")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{file} names the shard {shown(name)}, which is no file beside it")
    for name in sorted(set(places.values())):
        if not ((file.parent / name).is_file() or (file.parent / _WHOLE).is_file()):
            raise MissingFileError(f"{file} names the shard {name}, which is not there; fetch it too")


def _check_dtype(dtype: str | torch.dtype) -> None:
    if dtype != "auto" and dtype not in _DTYPES and dtype not in _DTYPES.values():
        hint = nearest(dtype, _DTYPES) if isinstance(dtype, str) else ""
        raise ConfigError(
            f"dtype {dtype} is no floating-point type{hint}; use auto, float32, bfloat16 or float16"
        )


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(1, device=device).cpu()  # the meta device holds no numbers that could come back
    except (RuntimeError, AssertionError) as error:
        # Without CUDA, torch says so by an assertion.
        raise ConfigError(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from error
