"""Finding the sites of a network: the linear modules that an adapter may change."""

from __future__ import annotations

import time
from collections.abc import Sequence

import regex
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from weft.adapters import site_at
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.host.load import RAISED
from weft.plain import reason_of
from weft.reading import shown
from weft.types import Site

ALL_LINEAR = "all-linear"
_LONGEST_PATTERN, _SECONDS = 4096, 2.0


def sites_of(
    model_or_config: nn.Module | PreTrainedConfig, target_modules: str | Sequence[str] = ALL_LINEAR
) -> tuple[Site, ...]:
    """Find the sites of a network, or of the network that a config describes, sorted by path.

    From a config the network is built on the meta device, so no weights are needed. Raises UnknownNameError
    for a name that matches no linear module, ConfigError for a pattern that is not a regular expression and
    for a config that no causal language model can be built from.

    Args:
        model_or_config: The network, or the Hugging Face config of one.
        target_modules: As in PEFT: `all-linear` (every linear module but the output head), a regular
            expression over whole paths, or a list of paths and path endings, `all-linear` among them.

    Example:
        >>> from transformers import LlamaConfig
        >>> [site.path for site in weft.sites_of(LlamaConfig(num_hidden_layers=1), ["q_proj"])]
        ['model.layers.0.self_attn.q_proj']
    """
    if isinstance(model_or_config, nn.Module):
        module = model_or_config
    else:
        try:
            with torch.device("meta"):
                module = AutoModelForCausalLM.from_config(model_or_config)
        except RAISED as error:
            raise ConfigError(
                f"no causal language model can be built from the config of a {model_or_config.model_type} "
                f"({type(error).__name__}: {reason_of(error)})"
            ) from error
    found = _linears(module)
    if isinstance(target_modules, str) and target_modules.lower() != ALL_LINEAR:
        chosen = set(_matching(target_modules, found))
    else:
        names = [target_modules] if isinstance(target_modules, str) else target_modules
        chosen = set(_named([name for name in names if name.lower() != ALL_LINEAR], found))
        if any(name.lower() == ALL_LINEAR for name in names):
            head = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
            chosen |= {path for path in found if module.get_submodule(path) is not head}
    return tuple(sorted(site_at(path, *found[path]) for path in chosen))


def short_names(sites: Sequence[Site], module: nn.Module) -> list[str]:
    """Sites as PEFT names them: `q_proj` where all linear modules of that name are sites, else paths."""
    paths = {site.path for site in sites}
    there: dict[str, set[str]] = {}
    for path in _linears(module):
        there.setdefault(path.rpartition(".")[2], set()).add(path)
    whole = {name for name, found in there.items() if found <= paths}
    return sorted({site.module if site.module in whole else site.path for site in sites})


def _linears(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Path -> (in_features, out_features) of every linear module that is called as a module."""
    found = {}
    bypassed = set()
    for path, part in module.named_modules():
        if isinstance(part, nn.MultiheadAttention):
            # It reads out_proj.weight itself and never calls the module, so an adapter would do nothing.
            bypassed.add(f"{path}.out_proj" if path else "out_proj")
        if isinstance(part, Conv1D):
            found[path] = (int(part.weight.shape[0]), part.nf)
        elif isinstance(part, nn.Linear):
            found[path] = (part.in_features, part.out_features)
        else:
            # Quantised linears of other libraries share no class with nn.Linear, only these two numbers.
            sizes = (vars(part).get("in_features"), vars(part).get("out_features"))
            if isinstance(sizes[0], int) and isinstance(sizes[1], int) and not list(part.children()):
                found[path] = (sizes[0], sizes[1])
    return {path: sizes for path, sizes in found.items() if path and path not in bypassed}


def _matching(pattern: str, found: dict[str, tuple[int, int]]) -> list[str]:
    asked = f"target_modules {shown(pattern)}"
    if len(pattern) > _LONGEST_PATTERN:
        raise ConfigError(f"{asked} has {len(pattern)} characters, at most {_LONGEST_PATTERN} are read")
    end = time.monotonic() + _SECONDS
    try:
        rule = regex.compile(pattern)
        chosen = [p for p in found if rule.fullmatch(p, timeout=max(end - time.monotonic(), 1e-3))]
    except TimeoutError as error:
        raise ConfigError(f"{asked} takes too long to match; write a simpler pattern") from error
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{asked} is not a regular expression: {error}") from error
    if not chosen:
        meant = f" (did you mean the list [{pattern}]?)" if pattern in _endings(found) else ""
        raise UnknownNameError(
            f"{asked} matches no linear module's path{meant or nearest(pattern, _names(found))}; "
            f"there are {', '.join(sorted(_endings(found)))}"
        )
    return chosen


def _named(names: Sequence[str], found: dict[str, tuple[int, int]]) -> list[str]:
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in found):
            raise UnknownNameError(
                f"no linear module {name!r} in this network{nearest(name, _names(found))}; "
                f"there are {', '.join(sorted(_endings(found)))}"
            )
    return [p for p in found if any(p == name or p.endswith(f".{name}") for name in names)]


def _endings(found: dict[str, tuple[int, int]]) -> set[str]:
    return {path.rpartition(".")[2] for path in found}


def _names(found: dict[str, tuple[int, int]]) -> list[str]:
    return [*sorted(_endings(found)), *found]
