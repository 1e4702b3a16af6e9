"""An adapter as a GGUF file, for llama.cpp and what is built on it.

    delta W = alpha / rank * lora_b lora_a        lora_a: [R, in]   lora_b: [out, R]

A file has one alpha for all matrices; where scalings differ, the rest of theirs goes into B. Tensors are
named after the base's own (`blk.3.attn_q.weight.lora_a`) and are float32. llama.cpp has the queries and keys
of Llama's family in another order of rows, pairs of rotary dimensions side by side; B's rows move with them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.adapters.card import base_model
from weft.adapters.check import check_factors
from weft.adapters.provenance import descriptions_of
from weft.errors import ShapeError, UnsupportedAdapterError
from weft.files import replace_file
from weft.types import Adapter

_REORDERED = {"llama": True, "mistral": True, "qwen2": False, "qwen3": False}
"""Kinds of bases (`model_type`) that are exported, and whether llama.cpp reorders their queries and keys."""


def save_gguf(adapter: Adapter, path: str | os.PathLike[str], config: Any) -> None:
    """Write a GGUF file for the base that a Hugging Face config describes; a former file there is replaced.

    Raises UnsupportedAdapterError for a kind of base, or a module, that llama.cpp's LoRA does not reach,
    ShapeError and WeightsError for factors that no file can hold, and SaveError.
    """
    import gguf

    if config.model_type not in _REORDERED:
        raise UnsupportedAdapterError(
            f"no GGUF for adapters of a {config.model_type}; there is one for {', '.join(_REORDERED)}"
        )
    if not adapter.factors:
        raise ShapeError(f"adapter {adapter.name} changes no module, there is nothing to save")
    check_factors(adapter)
    reordered = _REORDERED[config.model_type]
    kind = gguf.MODEL_ARCH.LLAMA if reordered else gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    alpha = statistics.mode(f.scaling * f.a_RI.shape[0] for f in adapter.factors.values())
    tensors = {}
    for site, (a_RI, b_OR, scaling) in adapter.factors.items():
        name = names.get_name(f"{site.path}.weight", try_suffixes=(".weight",))
        if name is None or (name == "output.weight" and config.tie_word_embeddings):
            raise UnsupportedAdapterError(f"llama.cpp has no matrix of its own for {site.path}")
        b_OR = b_OR.float() * (scaling * a_RI.shape[0] / alpha if alpha else scaling)
        if reordered and site.module in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if site.module == "q_proj" else config.num_key_value_heads
            b_OR = _pairs_together(b_OR, heads)
        tensors |= {f"{name}.lora_a": a_RI.float(), f"{name}.lora_b": b_OR}
    with tempfile.TemporaryDirectory(prefix="weft-gguf-") as folder:
        file = Path(folder) / "adapter.gguf"
        writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[kind])
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        writer.add_name(adapter.name)
        if descriptions_of(adapter):
            writer.add_description(descriptions_of(adapter)[0])
        if base_model(adapter):
            writer.add_string("weft.base_model", base_model(adapter))
        if adapter.base:
            writer.add_string("weft.base_fingerprint", adapter.base)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor.detach().cpu().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        replace_file(path, file.read_bytes())


def _pairs_together(b_OR: Tensor, heads: int) -> Tensor:
    """Rows of each head: the first half and the second half, taken in turns."""
    rows, rank = b_OR.shape
    return b_OR.reshape(heads, 2, rows // heads // 2, rank).transpose(1, 2).reshape(rows, rank)
