"""What a training of a network over a frozen base will cost, told before its first step."""

import time
from collections.abc import Sequence

import torch
from torch import nn

from weft.host import Host
from weft.rows import AbstractHost
from weft.train.answer_logits import answer_logits, language_model
from weft.train.packing import Packed

_KEPT = 34
"""Numbers of the hidden size that a layer keeps for its backward, per token, as in a Llama with adapters."""


@torch.no_grad()
def forecast(
    host: AbstractHost,
    network: nn.Module,
    packs: Sequence[Packed],
    *,
    steps: int,
    batches: int,
    recomputed: bool,
) -> str:
    """One line: tokens and seconds of a step, hours of all steps, memory.

    Time is that of one measured forward of `packs`, the forwards of a batch, three times: the backward costs
    two. Memory is base, network with its gradient and two moments, and what the largest forward keeps for
    its backward; over a spread host, what this process takes. Both are rough.
    """
    started = time.perf_counter()
    for packed in packs:
        answer_logits(host, None, packed)
    seconds = 3 * batches * (time.perf_counter() - started)
    tokens = batches * sum(packed.ids_BT.numel() for packed in packs)
    largest = max(packed.ids_BT.numel() for packed in packs)
    targets = max(int((packed.targets_BT >= 0).sum()) for packed in packs)
    kept = 3 * targets * host.vocab_size * 4
    if isinstance(host, Host):
        kept += _of_base(host, largest, recomputed=recomputed)
    learned = sum(16 * p.numel() for p in network.parameters())
    return (
        f"a step reads {tokens} tokens in about {seconds:.1f} s, {steps} steps take about "
        f"{steps * seconds / 3600:.1f} h; about {(learned + kept) / 1e9:.1f} GB of memory"
        f"{'' if isinstance(host, Host) else ' here'}"
    )


def _of_base(host: Host, largest: int, *, recomputed: bool) -> int:
    """Bytes of a base of this process, and of what its layers keep for the backward of `largest` tokens."""
    config = language_model(host).config.get_text_config()
    layers = 2 if recomputed else config.num_hidden_layers
    size = next(host.module.parameters()).element_size()
    weights = sum(p.numel() * p.element_size() for p in host.module.parameters())
    return weights + largest * layers * config.hidden_size * _KEPT * size
