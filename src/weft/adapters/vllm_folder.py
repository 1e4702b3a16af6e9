"""An adapter as vLLM runs it: a PEFT folder of one rank and one alpha, or a refusal that names the reason.

vLLM (0.32) multiplies every matrix by `lora_alpha / r`. Where ranks or scalings differ, factors are padded
with zeros to the largest rank and scalings go into B, so that alpha is r: the same sums.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import torch
from torch.nn.functional import pad

from weft.adapters.card import base_model
from weft.adapters.check import check_factors
from weft.errors import ShapeError, UnsupportedAdapterError
from weft.types import Adapter, Factors

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` may be."""

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def for_vllm(adapter: Adapter, *, max_lora_rank: int = 16) -> Adapter:
    """The same adapter with one rank and one whole alpha, for a vLLM that runs with this `--max-lora-rank`.

    Raises UnsupportedAdapterError for a rank above it, for modules that vLLM gives no LoRA to, and for an
    activated LoRA, which would act on every token there; ShapeError and WeightsError for broken factors.
    """
    if not adapter.factors:
        raise ShapeError(f"adapter {adapter.name} changes no module, there is nothing to export")
    check_factors(adapter)
    if adapter.peft_config.get("alora_invocation_tokens"):
        raise UnsupportedAdapterError(
            f"{adapter.name} is an activated LoRA (alora_invocation_tokens), which vLLM does not run"
        )
    strange = sorted({site.module for site in adapter.sites} - set(_MODULES))
    if strange:
        raise UnsupportedAdapterError(
            f"{adapter.name} changes {', '.join(strange)}; vLLM gives LoRA to {', '.join(_MODULES)} alone"
        )
    rank = adapter.rank
    if rank > max_lora_rank:
        larger = next((one for one in VLLM_RANKS if one >= rank), None)
        advice = (
            f"start vLLM with --max-lora-rank {larger}" if larger else "weft merge svd makes a smaller one"
        )
        raise UnsupportedAdapterError(
            f"{adapter.name} has rank {rank}, this vLLM takes {max_lora_rank} at most; {advice}"
        )
    alphas = {factors.scaling * rank for factors in adapter.factors.values()}
    same = len(alphas) == 1 and all(f.a_RI.shape[0] == rank for f in adapter.factors.values())
    alpha = next(iter(alphas))
    if not (same and float(alpha).is_integer()):
        alpha = rank
        factors = {site: _even(of_site, rank) for site, of_site in adapter.factors.items()}
        adapter = replace(adapter, factors=MappingProxyType(factors))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model(adapter) or None,
        "r": rank,
        "lora_alpha": int(alpha),
        "target_modules": sorted({site.module for site in adapter.sites}),
        "bias": "none",
        "inference_mode": True,
    }
    return replace(adapter, peft_config=MappingProxyType(config))


def _even(factors: Factors, rank: int) -> Factors:
    """Scaling 1 and a rank, by numbers in B and zeros at the end."""
    a_RI, b_OR, scaling = factors
    more = rank - a_RI.shape[0]
    wide = torch.promote_types(b_OR.dtype, torch.float32) if scaling != 1 else b_OR.dtype
    return Factors(pad(a_RI.to(wide), (0, 0, 0, more)), pad(b_OR.to(wide) * scaling, (0, more)), 1.0)
