"""What a Hugging Face model has to be told to read rows of unequal length from one cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.errors import ConfigError
from weft.host.cache import RowCache

FULL, _SLIDING = "full_attention", "sliding_attention"


def attention_layers(module: nn.Module) -> int:
    """How many layers keep keys and values.

    Raises ConfigError for a module that is no language model, that keeps another kind of state, or that works
    out by itself where a token stands: it would count the columns of the longest row.
    """
    if not isinstance(module, PreTrainedModel) or module.get_output_embeddings() is None:
        raise ConfigError(f"decoding needs a language model with an output head, not {type(module).__name__}")
    _check_rows(module, packed=False)
    if module.config._attn_implementation not in ("sdpa", "eager"):
        raise ConfigError(
            f"rows of unequal length are decoded with sdpa or eager attention, this model was loaded with "
            f"{module.config._attn_implementation}; call set_attn_implementation('sdpa')"
        )
    shared = getattr(module.config.get_text_config(), "num_kv_shared_layers", None) or 0
    return len(layer_types(module)) - shared  # the last ones of Gemma 3n read the keys of others


def window_of(module: nn.Module) -> int | None:
    """Most positions that a row may have; None where the config names no limit.

    With LongRoPE (Phi-3 with 128k) those before the switch to its other factors: Hugging Face switches all
    rows of a batch when one of them is longer, and what is cached was rotated by the first ones.
    """
    if not isinstance(module, PreTrainedModel):
        return None
    config = module.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return rope["original_max_position_embeddings"]
    return getattr(config, "max_position_embeddings", None)


def is_rotary(module: nn.Module) -> bool:
    """Whether a language model turns its keys by their positions."""
    return isinstance(module, PreTrainedModel) and bool(
        getattr(module.config.get_text_config(), "rope_parameters", None)
    )


def masks(module: nn.Module, cache: RowCache, columns_BT: Int[Tensor, "B T"]) -> Any:
    """The attention mask in the form that the model takes: one, or one by kind of layer."""
    assert isinstance(module, PreTrainedModel)
    return _by_kind(module, lambda sliding: in_form(module, cache.visible(columns_BT, sliding)))


def packed_masks(
    module: nn.Module, mask_B1TT: Float[Tensor, "B 1 T T"], positions_BT: Int[Tensor, "B T"]
) -> Any:
    """The mask of packed rows, which is added to attention scores, in the form that the model takes.

    Sliding layers see no further back than their window, counted in positions of a row. Raises ConfigError
    for a model that would not compute a row in a line as it does alone.
    """
    assert isinstance(module, PreTrainedModel)
    _check_rows(module, packed=True)

    def mask(sliding: int | None) -> Tensor:
        if sliding is None:
            return mask_B1TT
        back_BTT = positions_BT[:, :, None] - positions_BT[:, None]
        return mask_B1TT.masked_fill(back_BTT[:, None] >= sliding, torch.finfo(mask_B1TT.dtype).min)

    return _by_kind(module, mask)


@dataclass(eq=False)
class Last:
    """Which token of every row the output head reads, and the state that it read."""

    index_B: Tensor | None
    """None where there is one token."""
    hidden_BH: Tensor | None = None


def pick_last(last: ContextVar[Last | None]) -> Callable[[nn.Module, tuple[Tensor, ...]], Any]:
    """A hook that lets the output head see the last token of every row alone, during a step."""

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        current = last.get()
        if current is None:
            return None
        x_BTH = inputs[0]
        if current.index_B is not None:
            x_BTH = x_BTH[torch.arange(len(x_BTH), device=x_BTH.device), current.index_B][:, None]
        current.hidden_BH = x_BTH[:, -1]
        return (x_BTH,)

    return pick


def layer_types(module: PreTrainedModel) -> list[str]:
    """The kind of attention of every layer."""
    config = module.config.get_text_config()
    if config.model_type == "gpt_neo":
        # Its local layers cut their window out of the last columns that any row has.
        return [FULL if kind == "global" else f"{kind}_attention" for kind in config.attention_layers]
    kinds = getattr(config, "layer_types", None)
    return list(kinds or [_SLIDING if _window(module) else FULL] * config.num_hidden_layers)


def _by_kind(module: PreTrainedModel, mask: Callable[[int | None], Tensor | None]) -> Any:
    """What a mask is for the window of each kind of layer: one where there is one kind, else by its name."""
    made = {
        kind: mask(_window(module) if kind == _SLIDING else None)
        for kind in dict.fromkeys(layer_types(module))
    }
    return next(iter(made.values())) if len(made) == 1 else made


def _check_rows(module: PreTrainedModel, *, packed: bool) -> None:
    """Raise ConfigError for a model that keeps no keys, or cannot be told where the tokens of a row stand."""
    name, takes = type(module).__name__, inspect.signature(module.forward).parameters
    others = set(layer_types(module)) - {FULL, _SLIDING}
    # MPT counts columns: in a row of its own that shifts all scores alike, in a packed line it does not.
    counts = module.config.model_type == "mpt" and not packed
    embeddings = getattr(module.base_model, "embeddings", None)
    reason = None
    if others:
        reason = f"has layers of {', '.join(sorted(others))}, not of full and sliding attention alone"
    elif "past_key_values" not in takes:
        reason = "keeps no keys and values in a cache that it is given"
    elif module.config.model_type == "bloom" or getattr(module.config, "alibi", False):
        reason = "makes its ALiBi of a mask of one row of columns"
    elif "position_ids" not in takes and not counts:
        reason = "takes no position_ids, so it cannot be told where the tokens of a row stand"
    elif getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None) is not None:
        reason = "counts positions from behind its padding token, as RoBERTa does"
    if reason is not None:
        raise ConfigError(f"{name} {reason}; Weft does not run batches of rows over it")


def _window(module: PreTrainedModel) -> int | None:
    return getattr(module.config.get_text_config(), "sliding_window", None)


def in_form(module: PreTrainedModel, visible: Tensor | None) -> Tensor | None:
    """What every new token attends to, in the form that the attention of a model takes."""
    if visible is None or module.config._attn_implementation == "sdpa":
        return visible
    return torch.zeros(visible.shape, dtype=module.dtype, device=visible.device).masked_fill(
        ~visible, torch.finfo(module.dtype).min
    )
