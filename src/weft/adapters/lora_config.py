"""`adapter_config.json`: what Weft runs of it, what it refuses by name, and how it writes one.

PEFT's own `LoraConfig` checks the values and supplies the defaults, so both read a folder alike.
"""

import dataclasses
import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig

from weft.adapters.card import base_model
from weft.adapters.chosen import Chooser
from weft.adapters.provenance import targets_of
from weft.errors import AdapterFormatError, UnsupportedAdapterError
from weft.plain import reason_of
from weft.reading import shown
from weft.types import Adapter

_FIELDS = {field.name: field for field in dataclasses.fields(LoraConfig)}
# VeLoRA only changes the backward pass; what it trained is a plain LoRA.
_RUN = {"velora_config"}
_REFUSED = {
    "alora_invocation_tokens",
    "arrow_config",
    "bias",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
}
# Newer PEFT marks its variants itself, also those that are not listed here.
_REFUSED |= {name for name, field in _FIELDS.items() if field.metadata.get("is_lora_variant")} - _RUN
_CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
_LISTS = {"target_modules": str, "exclude_modules": str, "layers_pattern": str, "layers_to_transform": int}
_ABOUT_BASE = ("auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "revision", "task_type")


def parse(values: Mapping[str, Any], source: str | Path, *, activated: bool = False) -> LoraConfig:
    """Check the values of one `adapter_config.json`; `source` names the file in errors.

    `activated` lets a LoRA through that acts from its invocation tokens on.

    Keys that the installed PEFT does not know are ignored, as PEFT does; `unknown_keys` lists them.
    Raises UnsupportedAdapterError for a kind that Weft does not run, AdapterFormatError for a wrong value.
    """
    if values.get("peft_type") != "LORA":
        kind = values.get("peft_type")
        raise UnsupportedAdapterError(f"{source}: peft_type is {shown(kind)}, Weft runs LORA only")
    for key in sorted((_REFUSED & values.keys()) - ({"alora_invocation_tokens"} if activated else set())):
        if values[key] and values[key] != "none":
            raise UnsupportedAdapterError(f"{source}: {key} is {shown(values[key])}, which Weft does not run")
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UnsupportedAdapterError(
            f"{source}: init_lora_weights is {shown(start)}, which changes the base's own weights; "
            "convert it to a plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        )
    invocation = values.get("alora_invocation_tokens")
    if invocation is not None and not (_is_list(invocation, int) and invocation):
        raise AdapterFormatError(
            f"{source}: alora_invocation_tokens is {shown(invocation)}, it should be a list of token ids"
        )
    try:
        known = {key: value for key, value in values.items() if key in _FIELDS and key != "runtime_config"}
        config = LoraConfig(**known)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise AdapterFormatError(f"{source}: {reason_of(error)}") from error
    for key, wanted in (("rank_pattern", int), ("alpha_pattern", (int, float))):
        pattern = values.get(key) or {}
        if not isinstance(pattern, dict) or not all(isinstance(value, wanted) for value in pattern.values()):
            raise AdapterFormatError(
                f"{source}: {key} is {shown(pattern)}, it should map module names to numbers"
            )
    for key, kind in _LISTS.items():
        value = values.get(key)
        if not (value is None or isinstance(value, kind) or _is_list(value, kind)):
            kinds = "a text or a list of texts" if kind is str else "a whole number or a list of them"
            raise AdapterFormatError(f"{source}: {key} is {shown(value)}, it should be {kinds}")
    return config


def unknown_keys(values: Mapping[str, Any]) -> list[str]:
    """Keys of an `adapter_config.json` that the installed PEFT does not know, sorted."""
    return sorted(values.keys() - _FIELDS.keys())


def config_of(adapter: Adapter) -> dict[str, Any]:
    """The `adapter_config.json` of an adapter, JSON-ready.

    The one that was read, key by key, as long as it gives the sites, ranks and scalings that the factors
    have; else a new one, with rank and alpha wherever they are not the usual. It names modules by what their
    maker says of them (`targets_of`), and in full where nobody does.
    """
    kept = dict(adapter.peft_config)
    if kept and _describes(parse(kept, adapter.name, activated=True), adapter):
        return kept
    ranks = {site.path: adapter.factors[site].a_RI.shape[0] for site in adapter.sites}
    alphas = {site.path: _alpha(adapter.factors[site].scaling, ranks[site.path]) for site in adapter.sites}
    rank, alpha = statistics.mode(ranks.values()), statistics.mode(alphas.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]: PEFT divides by it, any number will do
        target_modules=targets_of(adapter) or list(ranks),
        rank_pattern={_only(path): value for path, value in ranks.items() if value != rank},
        alpha_pattern={_only(path): value for path, value in alphas.items() if value != alpha},
        base_model_name_or_path=base_model(adapter) or None,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).to_dict()
    config |= {key: kept[key] for key in _ABOUT_BASE if key in kept}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return json.loads(json.dumps(plain, sort_keys=True))


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(part, kind) and not isinstance(part, bool) for part in value
    )


def _describes(config: LoraConfig, adapter: Adapter) -> bool:
    chooser = Chooser(config, adapter.name)
    return all(
        chooser.takes(site.path)
        and (factors.a_RI.shape[0], factors.scaling) == chooser.rank_and_scaling(site.path)
        for site, factors in adapter.factors.items()
    )


def _alpha(scaling: float, rank: int) -> int | float:
    alpha = scaling * rank
    return int(alpha) if float(alpha).is_integer() else alpha


def _only(path: str) -> str:
    # PEFT matches patterns against the end of a path; the anchor makes this one match nothing else.
    return "^" + re.escape(path)
