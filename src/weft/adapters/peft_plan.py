"""What a file of PEFT's holds, checked by its header against its config before any tensor is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from peft import LoraConfig
from peft.utils.constants import EMBEDDING_LAYER_NAMES

from weft.adapters.chosen import Chooser
from weft.checks import CONFIG, MAX_TENSOR, check_shapes
from weft.errors import AdapterFormatError, UnsupportedAdapterError
from weft.reading import shown
from weft.tensor_file import Header

DTYPES = ("F64", "F32", "F16", "BF16")
"""Types of factors; narrower ones and integers do not add up."""
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_WRAPPED = re.compile(r"\b(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
"""What FSDP, checkpointing and torch.compile put into the paths of a model in training."""
_NAMED = re.compile(r"\.lora_[AB]\.[^.]+\.weight$")
_BARE = re.compile(r"(.*?)\.?lora_[AB](\.[^.]+)?\.weight")
_COPY = re.compile(r"base_model\.model\.(.+?)(\.base_layer)?\.weight")
_OTHER_KINDS = {
    "lora_magnitude_vector": "a DoRA magnitude",
    "lora_embedding_": "an embedding LoRA",
    ".bias": "a bias",
    ".modules_to_save.": "a module that was trained whole (modules_to_save)",
    "lora_down": "a key of kohya's or diffusers' files",
    "lora_up": "a key of kohya's or diffusers' files",
}
_PREFIX = "base_model.model."


class Plan(NamedTuple):
    """What is to be read of a file."""

    scalings: dict[str, float]
    """By module path."""
    left_out: tuple[str, ...]
    """Modules that the config does not choose."""
    copies: dict[str, str]
    """Copies of base weights: the key of each by module path."""


def plan_of(file: Path, config: LoraConfig, header: Header) -> Plan:
    """Check names, types, sizes and shapes. Raises UnsupportedAdapterError and AdapterFormatError."""
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    copies = {}
    for key, dtype, shape, begin, end in sorted(header.specs):
        match, copy = _KEY.fullmatch(key), _COPY.fullmatch(key)
        if match is None and copy and (copy[2] or copy[1].rpartition(".")[2] in EMBEDDING_LAYER_NAMES):
            copies[copy[1]] = key
            continue
        if match is None or _WRAPPED.search(key) or match[1].startswith(_PREFIX):
            raise UnsupportedAdapterError(f"{file}: {shown(key)} is {_kind(key)}")
        if dtype not in DTYPES:
            raise UnsupportedAdapterError(f"{file}: {shown(key)} is {dtype}, expected one of {DTYPES}")
        if end - begin > MAX_TENSOR:
            raise AdapterFormatError(
                f"{file}: {shown(key)} has {end - begin} bytes, at most {MAX_TENSOR} are read"
            )
        halves.setdefault(match[1], {})[match[2]] = shape
    if not halves:
        raise AdapterFormatError(f"{file} holds no lora_A and lora_B weights")
    chooser = Chooser(config, file.with_name(CONFIG))
    scalings, left_out = {}, []
    for path, shapes in halves.items():
        if len(shapes) < 2:
            half = next(iter(shapes))
            raise AdapterFormatError(f"{file}: {shown(path)[1:-1]} has lora_{half} and not the other half")
        if not chooser.takes(path):
            left_out.append(path)
            continue
        rank, scalings[path] = chooser.rank_and_scaling(path)
        where = f"{file}: {shown(path)[1:-1]}"
        check_shapes(where, shapes["A"], shapes["B"], rank=rank, error=AdapterFormatError)
    if not scalings:
        raise AdapterFormatError(
            f"{file}: {CONFIG} chooses none of its modules, {shown(left_out[0])} first; mend target_modules"
        )
    return Plan(scalings, tuple(left_out), copies)


def _kind(key: str) -> str:
    wrapped = _WRAPPED.search(key)
    if wrapped:
        return f"the key of a model in training, wrapped as {wrapped[1]}; take that part out of the keys"
    if key.startswith(_PREFIX * 2):
        return f"the key of a PEFT model inside another, with {_PREFIX} twice; take one out of the keys"
    if _NAMED.search(key):
        return (
            "the key of a training state, which names its adapter; write the folder with save_pretrained, "
            "or take the name out of the keys"
        )
    bare = _BARE.fullmatch(key)
    if bare and not key.startswith(_PREFIX):
        return (
            f"a key without the {_PREFIX} that PEFT writes before the path of a module; "
            "write the folder with save_pretrained"
        )
    kind = next((kind for mark, kind in _OTHER_KINDS.items() if mark in key), "no lora_A or lora_B weight")
    return f"{kind}, which Weft does not run"
