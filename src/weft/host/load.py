"""Reading a causal language model and its tokenizer from a name of Weft's, a folder or the Hub."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from weft.adapters import fingerprint, stored_as
from weft.errors import ConfigError, MissingExtraError, MissingFileError, WeftError
from weft.files import folders_with, nearest, resolve
from weft.host.bars import no_bars
from weft.host.fetch import fetch_model
from weft.plain import reason_of
from weft.reading import POINTER, decode, parse_json, read_bytes, refuse_pointer, shown
from weft.registry import NAMED

_HOLDS_ADAPTER = (
    "holds an adapter (adapter_config.json) beside the base, and both would load as one network; "
    "move the adapter's files to a folder of their own and name it as the adapter"
)
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
_INDEX = "model.safetensors.index.json"
_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", _INDEX)
_RAISED = (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, StrictDataclassError)
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
    or weights are missing or damaged, ConfigError for something that is no causal language model, for a base
    beside an adapter, and for a dtype or device that cannot be used, UnknownNameError for an embedded name,
    MissingExtraError for a package that the weights need.
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
    except ValueError as error:
        raise ConfigError(f"{source} is no causal language model: {reason_of(error)}") from error
    except _RAISED as error:
        told = f"{type(error).__name__}: {reason_of(error)}"
        raise ConfigError(f"{source} cannot be loaded, see whether its config is right ({told})") from error
    return model.eval(), tokenizer


def _read_tokenizer(source: str, remote: dict[str, Any]) -> Any:
    try:
        return AutoTokenizer.from_pretrained(source, **remote)
    except ImportError:
        raise
    except Exception as error:  # the library raises no kind of its own
        raise ConfigError(f"the tokenizer of {source} cannot be read: {reason_of(error)}") from error


def _read(
    source: str, dtype: str | torch.dtype, device: str | torch.device, remote: dict[str, Any]
) -> PreTrainedModel:
    """The model; where it is cast, with the fingerprint of what is stored, at the cost of a second reading.

    Quantised weights are packed, not cast: their fingerprint is that of the model as it is loaded.
    """
    asked = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    config = AutoConfig.from_pretrained(source, **remote)
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
    return model


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


def _check_index(file: Path, values: dict[str, Any]) -> None:
    places = values.get("weight_map")
    if not isinstance(places, dict) or not isinstance(values.get("metadata"), dict):
        raise ConfigError(f"{file} is no index of shards: it has no weight_map or no metadata")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{file} names the shard {shown(name)}, which is no file beside it")


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
