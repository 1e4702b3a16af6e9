"""Released Text-to-LoRA networks (SakanaAI/text-to-lora) as hypernetworks of Weft.

A folder of theirs holds `hypermod.pt` (a state dict), `args.yaml` (how it was trained) and
`adapter_config.json` (the LoRA that it makes). What is read from the public code, and not from the paper:

- A module type's id is its place in a Python set of that training process, which is written down nowhere
  but in the order of the heads inside `hypermod.pt`. It is taken from there; their own code counts anew.
- Descriptions end in a full stop, are read by gte at its first token, and are scaled to length sqrt(D).
- The sizes of a module are those of `AB_offset`, so the base is not needed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from weft.adapters import site_at
from weft.adapters.lora_config import parse
from weft.embed import build_encoder
from weft.errors import ConfigError, WeightsError
from weft.hyper.groups import Group, group_sites, role_of
from weft.hyper.head_published import Size
from weft.hyper.hypernetwork import HyperNetwork
from weft.hyper.read_pickled import read_pickled
from weft.hyper.t2l import HeadPublishedConfig, T2LConfig, build_t2l
from weft.plain import reason_of
from weft.reading import read_json, read_yaml, shown
from weft.types import AbstractEncoder

WEIGHTS, ARGS, LORA = "hypermod.pt", "args.yaml", "adapter_config.json"
_PARENT = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
"""Where Mistral, Llama and Gemma keep the modules of a layer."""
_BLOCKS = {
    "task_encoder.mlp": "trunk.task",
    "layer_depth_encoder": "trunk.layer",
    "layer_type_encoder": "trunk.role",
    "mixer": "trunk.mixer",
    "mlp1.mlp": "trunk.mlp1",
    "mlp2.mlp": "trunk.mlp2",
    "mlp3": "trunk.mlp3",
    "out_emb_norm": "head.norm",
}
_TINY = 1e-10
"""Their spread of a z-score is never 0."""


class _Args(BaseModel):
    """The keys of `args.yaml` that decide what a network computes; it has many more."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model_dir: str
    emb_model: str = ""
    training_task: Literal["sft", "recon"] = "sft"
    exp_setup: Literal["hyper_lora"]
    encoder_type: Literal["linear"] = "linear"
    use_one_hot_task_emb: Literal[False] = False
    use_inp_as_desc: Literal[False] = False
    learnable_pos_emb: Literal[False] = False
    shared_AB_head: bool = False
    autoreg_gen: bool = False
    pred_z_score: bool = True
    factorized: bool = False
    delta_w_scaling: float = Field(default=10000, gt=0, allow_inf_nan=False)

    @property
    def size(self) -> Size:
        """L, M or S. Raises ConfigError for their fourth combination, which was never released."""
        if self.autoreg_gen and not self.shared_AB_head:
            raise ConfigError("autoreg_gen without shared_AB_head is none of sizes L, M and S")
        return "S" if self.autoreg_gen else "M" if self.shared_AB_head else "L"

    @property
    def z_scored(self) -> bool:
        """Whether the heads say z-scores. Raises ConfigError where their own code cannot say what of."""
        asked = self.training_task == "recon" and self.pred_z_score
        if asked and not self.factorized:
            raise ConfigError("pred_z_score with factorized: false is what their code cannot generate from")
        return asked


def import_t2l(
    folder: str | os.PathLike[str], *, encoder: AbstractEncoder | str | None = None
) -> HyperNetwork:
    """The network in a released folder; its adapters are theirs, number by number.

    `encoder` is one, or the name of one that is read at its first token, in place of the one that `args.yaml`
    names. Raises MissingFileError, ConfigError for a variant that was not released, WeightsError for tensors
    that do not fit together, and what `read_pickled` and `parse` (of LoRA configs) raise.
    """
    place = Path(folder)
    args = _read_args(place / ARGS)
    head = {"kind": "published", "size": args.size, "z_scored": args.z_scored}
    named = args.emb_model if encoder is None else encoder
    if not named:
        raise ConfigError(f"{place / ARGS} names no emb_model: a network that reads its base is not imported")
    lora = parse(read_json(place / LORA), place / LORA)
    tensors = read_pickled(place / WEIGHTS)
    modules = [
        name.split(".")[1] for name in tensors if name.startswith("heads.") and name.endswith(".weight")
    ]
    unknown = [module for module in modules if module not in _PARENT]
    if unknown or not modules:
        raise ConfigError(
            f"{place / WEIGHTS} has heads for {', '.join(modules) or 'nothing'}; "
            f"known are {', '.join(_PARENT)}"
        )
    reader = build_encoder({"kind": "first_token", "name": named}) if isinstance(named, str) else named
    try:
        groups = group_sites(
            site_at(
                f"model.layers.{layer}.{_PARENT[module]}.{module}",
                tensors[f"AB_offset.A.{module}"].shape[2],
                tensors[f"AB_offset.B.{module}"].shape[1],
            )
            for module in modules
            for layer in range(tensors[f"AB_offset.A.{module}"].shape[0])
        )
        config = T2LConfig(
            head=HeadPublishedConfig.model_validate(head | {"bias": f"heads.{modules[0]}.bias" in tensors}),
            rank=lora.r,
            alpha=lora.lora_alpha,
            use_rslora=lora.use_rslora,
            latent=tensors["mlp2.mlp.0.weight"].shape[0],
            head_in=tensors["mlp3.4.weight"].shape[0],
            trunk_norm=None,
        )
        network = build_t2l(config, [site for group in groups for site in group.sites], dim=reader.dim)
        network.load_state_dict(_renamed(tensors, args, modules, groups, reader.dim))
    except (KeyError, IndexError, RuntimeError, ValidationError) as error:
        raise WeightsError(
            f"the tensors of {place / WEIGHTS} do not fit {ARGS} and {LORA}: {reason_of(error)}"
        ) from error
    provenance = {
        "base_model": args.model_dir,
        "target_modules": sorted(modules),
        "imported": {
            "from": "SakanaAI/text-to-lora",
            "size": args.size,
            "rank": lora.r,
            "training_task": args.training_task,
        },
    }
    return HyperNetwork(reader, network, name=place.resolve().name, provenance=provenance).eval()


def _read_args(file: Path) -> _Args:
    values = read_yaml(file)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{file} should hold keys and values")
    try:
        return _Args.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{file}: {key} is {shown(first.get('input'))}, which is not imported ({first['msg']})"
        ) from error


def _renamed(
    tensors: Mapping[str, Tensor], args: _Args, modules: list[str], groups: tuple[Group, ...], dim: int
) -> dict[str, Tensor]:
    """Their state dict under our names."""
    state: dict[str, Tensor] = {"trunk.mean": torch.zeros(dim), "trunk.std": torch.ones(dim)}
    for name, tensor in tensors.items():
        for theirs, ours in _BLOCKS.items():
            if name.startswith(f"{theirs}."):
                state[ours + name.removeprefix(theirs)] = tensor
    roles = sorted({role_of(site) for group in groups for site in group.sites})
    order = [modules.index(role.rpartition(".")[2]) for role in roles]
    state["trunk.role.0.weight"] = state["trunk.role.0.weight"][order]
    if args.size != "L":
        both = [[tensors[f"out_emb.{group.sites[0].module}.{which}"] for which in "AB"] for group in groups]
        state["head.role_GQW"] = torch.stack([torch.stack(pair) for pair in both])
    if args.size == "S":
        again = {name: x for name, x in state.items() if name.startswith("trunk.mlp2.")}
        state |= {name.replace("trunk.mlp2.", "head.again."): x for name, x in again.items()}
    shrink = 1.0
    if args.training_task == "recon" and not args.factorized:
        shrink = 1 / math.sqrt(args.delta_w_scaling)
    for group in groups:
        module = group.sites[0].module
        for part in ("weight", "bias"):
            if f"heads.{module}.{part}" in tensors:
                state[f"head.linear.{group.name}.{part}"] = tensors[f"heads.{module}.{part}"] * shrink
        for role, flip in (("A", False), ("B", True)):
            offset = tensors[f"AB_offset.{role}.{module}"]
            if args.z_scored:
                offset = offset + tensors[f"mean_recon_target.{role}.{module}"]
                spread = tensors[f"std_recon_target.{role}.{module}"] + _TINY
                state[f"head.scale_{role.lower()}.{group.name}"] = spread.mT if flip else spread
            state[f"head.offset_{role.lower()}.{group.name}"] = offset.mT if flip else offset
    return state
