"""Reading a part of a base: its own layers' tensors and no others, so a base may be larger than a worker.

The network is described on the meta device, the layers of other stages are left out of it, and what remains
is filled from slices of the safetensors files. The fingerprint is that of the whole base, from 64 values of
every tensor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from weft.adapters import stored_as
from weft.adapters.fingerprint import fingerprint_by
from weft.errors import ConfigError, MissingFileError
from weft.files import resolve
from weft.host.fetch import fetch_model
from weft.host.load import RAISED
from weft.host.sites import ALL_LINEAR
from weft.plain import reason_of
from weft.reading import read_json
from weft.registry import NAMED
from weft.swarm.part import FAMILIES, Part

_INDEX = "model.safetensors.index.json"
_INDEX_BYTES = 64 << 20
_MOST_FILES = 4096
_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def base_folder(name_or_path: str | os.PathLike[str]) -> Path:
    """Where the files of a base lie: a name of Weft's, a folder, or a Hub id, fetched where it is not here.

    Raises MissingFileError where there is none, and what `fetch_model` raises.
    """
    name = os.fspath(name_or_path)
    if name in NAMED and not Path(name).is_dir():
        fetch_model(NAMED[name])
    folder = resolve(name)
    if folder is None:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model"]))
        except (OSError, ValueError) as error:
            raise MissingFileError(
                f"no model {name} there: no folder, nor within reach on the Hub"
            ) from error
    return folder


def read_config(folder: Path) -> PreTrainedConfig:
    """The config of a base. Raises MissingFileError, ConfigError for a family that is not spread."""
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, *RAISED) as error:
        raise MissingFileError(f"{folder} holds no model: {reason_of(error)}") from error
    if config.model_type not in FAMILIES:
        raise ConfigError(f"a {config.model_type} is not spread yet; families: {', '.join(FAMILIES)}")
    return config


def load_part(
    name_or_path: str | os.PathLike[str],
    first: int,
    last: int,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    target_modules: str | Sequence[str] = ALL_LINEAR,
    memory: int | None = None,
) -> Part:
    """Layers `first` to `last` (excluded) of a base, read by themselves; at most `memory` bytes of weights.

    Raises MissingFileError where files or tensors are missing or damaged, ConfigError for layers that are not
    there or do not fit into the memory, and what `Part` raises.
    """
    folder = base_folder(name_or_path)
    config = read_config(folder)
    if not 0 <= first < last <= config.num_hidden_layers:
        raise ConfigError(
            f"there are layers 0 to {config.num_hidden_layers}, a part cannot have {first} to {last}"
        )
    with ExitStack() as files:
        stored = _open(folder, files)
        _check_sizes(folder, config, stored)
        number = _number(folder, stored, dtype)
        module = _described(config, number)
        base = _fingerprint(module, stored)
        _cut_out(module, first, last)
        need = sum(tensor.numel() * number.itemsize for tensor in module.state_dict().values())
        if memory is not None and need > memory:
            raise ConfigError(
                f"layers {first} to {last} are {need} bytes of weights, this worker takes {memory}"
            )
        _fill(module, stored, number, device)
    stored_as(module, base)
    return Part(module, first, last, target_modules=target_modules)


def part_bytes(name_or_path: str | os.PathLike[str], dtype: str | torch.dtype) -> tuple[int, int, int, int]:
    """How many layers a base has, and the bytes of one layer, of the embeddings and of the head.

    Raises what `load_part` raises of the base.
    """
    folder = base_folder(name_or_path)
    config = read_config(folder)
    with ExitStack() as files:
        stored = _open(folder, files)
        _check_sizes(folder, config, stored)
        size = _number(folder, stored, dtype).itemsize
    module = _described(config, torch.float32)
    body = cast(Any, module.model)
    layer = sum(p.numel() for p in body.layers[0].parameters()) * size
    ends = config.vocab_size * config.hidden_size * size
    return config.num_hidden_layers, layer, ends, ends + config.hidden_size * size


def base_fingerprint(name_or_path: str | os.PathLike[str]) -> str:
    """The fingerprint of a base, from its files alone. Raises what `load_part` raises of the base."""
    folder = base_folder(name_or_path)
    config = read_config(folder)
    with ExitStack() as files:
        stored = _open(folder, files)
        _check_sizes(folder, config, stored)
        return _fingerprint(_described(config, torch.float32), stored)


def part_dtype(name_or_path: str | os.PathLike[str], dtype: str | torch.dtype) -> torch.dtype:
    """The number type that a part of a base has. Raises what `load_part` raises of the base."""
    folder = base_folder(name_or_path)
    with ExitStack() as files:
        return _number(folder, _open(folder, files), dtype)


def _fingerprint(module: PreTrainedModel, stored: Mapping[str, Any]) -> str:
    return fingerprint_by(module, lambda name, tensor, index: _pick(_at(stored, name), name, tensor, index))


def _check_sizes(folder: Path, config: PreTrainedConfig, stored: Mapping[str, Any]) -> None:
    """Raise MissingFileError for a config that announces other layers or a larger vocabulary than there is.

    Before anything of its size is made: the numbers of a config may be any.
    """
    found = {int(part[1]) for name in stored if (part := re.match(r"model\.layers\.(\d{1,6})\.", name))}
    if found != set(range(len(found))) or len(found) != config.num_hidden_layers:
        raise MissingFileError(
            f"{folder} holds {len(found)} layers, its config says {config.num_hidden_layers}"
        )
    shape = [config.vocab_size, config.hidden_size]
    if _at(stored, _EMBED).get_slice(_EMBED).get_shape() != shape:
        raise MissingFileError(f"the embeddings of {folder} are not {shape}, as its config says")


def _number(folder: Path, stored: Mapping[str, Any], dtype: str | torch.dtype) -> torch.dtype:
    """The number type of a part, which is that of the stored layers unless given."""
    like = next((name for name in stored if ".layers.0." in name), next(iter(stored)))
    kept = stored[like].get_slice(like).get_dtype()
    if kept not in _STORED:
        raise ConfigError(f"{folder} is stored as {kept}; a base that is spread is {', '.join(_STORED)}")
    if isinstance(dtype, torch.dtype):
        return dtype
    return _STORED[kept] if dtype == "auto" else getattr(torch, dtype)


def _described(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _open(folder: Path, files: ExitStack) -> Mapping[str, Any]:
    """Every tensor name, with the open file that holds it."""
    index = folder / _INDEX
    try:
        names = _shards(index) if index.is_file() else ["model.safetensors"]
        opened = [files.enter_context(safe_open(folder / name, "pt")) for name in names]
    except (SafetensorError, OSError) as error:
        raise MissingFileError(
            f"the weights of {folder} are missing or damaged: {reason_of(error)}"
        ) from error
    return {name: file for file in opened for name in list(file.keys())}


def _shards(index: Path) -> list[str]:
    """The files that an index names, all of its own folder. Raises MissingFileError, ConfigError."""
    told = read_json(index, _INDEX_BYTES)
    places = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise MissingFileError(f"{index} does not say which tensor lies in which file")
    names = sorted(set(places.values()))
    if any(Path(name).name != name or name in ("", ".", "..") for name in names) or len(names) > _MOST_FILES:
        raise MissingFileError(f"{index} names files outside its folder, or more than {_MOST_FILES}")
    return names


def _at(stored: Mapping[str, Any], name: str) -> Any:
    if name not in stored:
        raise MissingFileError(f"the weights of this base lack {name}")
    return stored[name]


def _pick(file: Any, name: str, tensor: Tensor, index: list[int]) -> Tensor:
    """Single values of a stored tensor, by their flat places."""
    kept = file.get_slice(name)
    if list(kept.get_shape()) != list(tensor.shape):
        raise MissingFileError(f"{name} is {kept.get_shape()}, its config says {list(tensor.shape)}")
    if tensor.dim() != 2:
        return file.get_tensor(name).reshape(-1)[torch.tensor(index)]
    columns = tensor.shape[1]
    found = [kept[i // columns : i // columns + 1, i % columns : i % columns + 1] for i in index]
    return torch.cat(found).reshape(-1)


def _cut_out(module: PreTrainedModel, first: int, last: int) -> None:
    """Leave the other layers out, and the ends that a part does not need."""
    body = cast(Any, module.model)
    for place in range(len(body.layers)):
        if not first <= place < last:
            body.layers[place] = nn.Identity()
    if first:
        body.embed_tokens = nn.Identity()
    if last < len(body.layers):
        body.norm = nn.Identity()
        module.set_output_embeddings(nn.Identity())


def _fill(module: PreTrainedModel, stored: Mapping[str, Any], dtype: torch.dtype, device: Any) -> None:
    body = cast(Any, module.model)
    body.rotary_emb = type(body.rotary_emb)(config=module.config).to(device)  # its buffers are made, not read
    found: dict[str, Tensor] = {}
    for name, like in module.state_dict().items():
        source = _EMBED if name == _HEAD and name not in stored else name
        file = _at(stored, source)
        if file.get_slice(source).get_shape() != list(like.shape):
            raise MissingFileError(f"{source} of the weights is not {list(like.shape)}, as its config says")
        try:
            tensor = file.get_tensor(source)
        except SafetensorError as error:
            raise MissingFileError(f"{source} is damaged: {error}; fetch the base again") from error
        found[name] = found[source] if source in found else tensor.to(device=device, dtype=dtype)
    module.load_state_dict(found, assign=True)
    if _EMBED in found and _HEAD in found and _HEAD not in stored:
        module.tie_weights()
