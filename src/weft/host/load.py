"""Reading a causal language model and its tokenizer from a name of Weft's, a folder or the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from weft.errors import ConfigError, MissingFileError
from weft.files import nearest, resolve
from weft.host.fetch import fetch_model
from weft.registry import NAMED

_TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
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
    """The model, in evaluation mode on `device`, and its tokenizer.

    A name such as `weft/smollm2` is fetched on its first use, with what `fetch_model` raises.
    Weights are read from safetensors alone, never from pickles. The tokenizer is None for a local folder
    that holds none. Raises MissingFileError when nothing is there or weights are missing or damaged,
    ConfigError for something that is no causal language model and for a dtype or device that cannot be used,
    UnknownNameError for an embedded name.
    """
    _check_dtype(dtype)
    _check_device(device)
    name = os.fspath(name_or_path)
    if name in NAMED and not Path(name).is_dir():
        fetch_model(NAMED[name])
    folder = resolve(name)
    if folder is not None and not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        what = "an adapter; name the base that it changes" if adapter else "no model: it lacks config.json"
        raise MissingFileError(f"{folder} holds {what}")
    source = name if folder is None else str(folder)
    remote = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, device_map=device, use_safetensors=True, output_loading_info=True, **remote
        )
        model, report = loaded
        tokenizer = None
        if folder is None or _has_tokenizer(folder):
            tokenizer = AutoTokenizer.from_pretrained(source, **remote)
    except SafetensorError as error:
        raise MissingFileError(f"the weights of {source} are damaged: {error}; fetch them again") from error
    except OSError as error:
        where = "in that folder" if folder is not None else "there: no folder, nor within reach on the Hub"
        raise MissingFileError(f"no model {source} {where} ({_one_line(error)})") from error
    except ValueError as error:
        raise ConfigError(f"{source} is no causal language model: {_one_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise MissingFileError(f"the weights of {source} lack {len(missing)} tensors, {missing[0]} first")
    return model.eval(), tokenizer


def _check_dtype(dtype: str | torch.dtype) -> None:
    if dtype != "auto" and dtype not in _DTYPES and dtype not in _DTYPES.values():
        hint = nearest(dtype, _DTYPES) if isinstance(dtype, str) else ""
        raise ConfigError(
            f"dtype {dtype} is no floating-point type{hint}; use auto, float32, bfloat16 or float16"
        )


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # Without CUDA, torch says so by an assertion.
        raise ConfigError(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from error


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
