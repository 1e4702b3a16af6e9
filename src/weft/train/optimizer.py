"""Optimizers and schedules of every training, and their state as plain tensors."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from transformers import get_scheduler

from weft.config import Config


class OptimizerConfig(Config):
    """How weights move; names as in Hugging Face's Trainer."""

    optim: Literal["adamw", "muon"] = "adamw"
    """`muon` moves matrices inside the layers by Muon (Jordan 2024), everything else by AdamW."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1e3)
    """The highest that the schedule reaches."""
    matrix_learning_rate: float = Field(default=0.01, gt=0)
    """Muon's own learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled, as in AdamW."""
    adam_beta2: float = Field(default=0.98, gt=0, lt=1)
    """Decay of Adam's mean of squared gradients; the other one is 0.9."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this norm."""
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup", "warmup_stable_decay"] = "cosine"
    """How the learning rate goes up and down, as in transformers."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    decay_ratio: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps over which `warmup_stable_decay` goes down to zero."""


def _moves_adapters(config: OptimizerConfig) -> OptimizerConfig:
    if config.optim != "adamw":
        raise ValueError("adapters are trained with optim: adamw, muon is for whole matrices")
    return config


AdapterOptimizer = Annotated[OptimizerConfig, AfterValidator(_moves_adapters)]
"""Of parameters that are the factors of many adapters at once."""


def build_optimizers(
    config: OptimizerConfig, named: Iterable[tuple[str, nn.Parameter]]
) -> list[torch.optim.Optimizer]:
    """One optimizer, or two with Muon: matrices of the layers, and the rest."""
    named = [(name, p) for name, p in named if p.requires_grad]
    # Muon makes the singular values of a step alike; a single row has one, so its steps would never shrink.
    matrices = [
        p for n, p in named if p.ndim == 2 and min(p.shape) > 1 and "embed" not in n and "lm_head" not in n
    ]
    if config.optim == "adamw":
        matrices = []
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    betas = (0.9, config.adam_beta2)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            rest, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay, fused=True
        )
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay)
        )
    return optimizers


def build_schedulers(
    config: OptimizerConfig, optimizers: list[torch.optim.Optimizer], max_steps: int
) -> list[Any]:
    """One Hugging Face schedule per optimizer."""
    warmup = int(config.warmup_ratio * max_steps)
    decay = int(config.decay_ratio * max_steps)
    stable = config.lr_scheduler_type == "warmup_stable_decay"
    extra = {"num_decay_steps": decay, "decay_type": "linear"} if stable else None
    return [
        get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=max_steps,
            scheduler_specific_kwargs=extra,
        )
        for optimizer in optimizers
    ]


def state_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of optimizers as named tensors, ready for safetensors."""
    return {
        f"{i}.{index}.{key}": torch.as_tensor(value).contiguous()
        for i, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_state_tensors(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` gave."""
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, index, key = name.split(".")
            if int(number) == i:
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
