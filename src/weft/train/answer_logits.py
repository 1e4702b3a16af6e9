"""The forwards of adapter training: rows packed per adapter, logits only where an answer is asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.errors import ConfigError
from weft.host import Dropout, Host
from weft.host.decoding import packed_masks
from weft.rows import AbstractHost
from weft.tasks import Encoded
from weft.train.packing import Packed, pack
from weft.types import Mixture

_LINE = 128  # tokens: in much longer lines of many rows, masked attention costs more than padding does


class Forward(NamedTuple):
    """One forward's share of the rows of many adapters: lines of one adapter each."""

    packed: Packed
    start: int
    """The first adapter that has lines in it."""
    end: int
    """One after the last."""
    index_B: Int[Tensor, " B"]
    """Adapter of each line, counted from `start`."""


class AnswerLogits(NamedTuple):
    """What a host says where a target stands, N places in all, line by line."""

    logits_NV: Float[Tensor, "N V"]
    targets_N: Int[Tensor, " N"]
    line_N: Int[Tensor, " N"]
    """Which line of the pack each place belongs to."""

    def nats(self) -> Float[Tensor, ""]:
        """The loss of all places together; differentiable."""
        return F.cross_entropy(self.logits_NV.float(), self.targets_N, reduction="sum")


def split_rows(rows: Sequence[Sequence[Encoded]], *, tokens: int, pad_id: int) -> Iterator[Forward]:
    """Pack the rows of each adapter into lines, and lines into forwards of at most `tokens` tokens.

    Adapters stay in order, so those of a forward are neighbours. A line that alone has more than `tokens`
    makes a forward of its own.
    """
    lines: list[list[Encoded]] = []
    adapters: list[int] = []
    width = 0
    for adapter, of_one in enumerate(rows):
        for line in _lines(of_one):
            length = sum(len(row.ids) for row in line)
            if lines and max(width, length) * (len(lines) + 1) > tokens:
                yield _forward(lines, adapters, pad_id)
                lines, adapters, width = [], [], 0
            lines.append(line)
            adapters.append(adapter)
            width = max(width, length)
    if lines:
        yield _forward(lines, adapters, pad_id)


def answer_logits(
    host: AbstractHost, mixture: Mixture | None, packed: Packed, *, dropout: Dropout | None = None
) -> AnswerLogits:
    """Run packed rows under a mixture whose batch rows are the lines; differentiable.

    The output head reads the chosen places alone: with a vocabulary of 150,000 all the others would take most
    of the memory. A head that is a site itself reads everything, since its adapters are given per line.

    Raises ConfigError for dropout over a host that is not local, and what `packed_masks` raises.
    """
    packed = Packed(*(tensor.to(host.device) for tensor in packed))
    chosen_BT = packed.targets_BT >= 0
    if not isinstance(host, Host):
        if dropout is not None:
            raise ConfigError("lora_dropout is drawn on a local host; leave it out over a swarm")
        spread: Any = host
        seen = {"attention_mask": packed.mask_B1TT.to(spread.dtype), "position_ids": packed.positions_BT}
        logits_NV = spread.forward(packed.ids_BT, mixture, chosen_BT=chosen_BT, **seen).logits
        return AnswerLogits(logits_NV, packed.targets_BT[chosen_BT], chosen_BT.nonzero()[:, 0])
    head = _head(host)
    kind = host.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else host.dtype
    masks = packed_masks(host.module, packed.mask_B1TT.to(dtype), packed.positions_BT)
    inputs = {"attention_mask": masks, "position_ids": packed.positions_BT}
    if any(host.module.get_submodule(site.path) is head for site in host.sites):
        logits_NV = host(packed.ids_BT, mixture, dropout=dropout, **inputs).logits[chosen_BT]
    else:
        with _reading(head, chosen_BT):
            logits_NV = host(packed.ids_BT, mixture, dropout=dropout, **inputs).logits[0]
    return AnswerLogits(logits_NV, packed.targets_BT[chosen_BT], chosen_BT.nonzero()[:, 0])


def language_model(host: Host) -> PreTrainedModel:
    """The host's module as what training on text needs. Raises ConfigError when it is something else."""
    if not isinstance(host.module, PreTrainedModel):
        kind = type(host.module).__name__
        raise ConfigError(f"training needs a Hugging Face language model, this host is a {kind}")
    return host.module


def _head(host: Host) -> nn.Module:
    head = language_model(host).get_output_embeddings()
    if head is None:
        raise ConfigError(f"training needs a model with an output head, {host.name or 'this one'} has none")
    return head


def _lines(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """Rows side by side, longest first, each in the first line with room for it."""
    width = max([_LINE, *(len(row.ids) for row in rows)])
    lines: list[list[Encoded]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        length = len(row.ids)
        place = next((i for i, left in enumerate(room) if left >= length), len(lines))
        if place == len(lines):
            lines.append([])
            room.append(width)
        lines[place].append(row)
        room[place] -= length
    return lines


def _forward(lines: list[list[Encoded]], adapters: list[int], pad_id: int) -> Forward:
    start, end = adapters[0], adapters[-1] + 1
    return Forward(pack(lines, pad_id=pad_id), start, end, torch.tensor(adapters) - start)


@contextmanager
def _reading(head: nn.Module, chosen_BT: Bool[Tensor, "B T"]) -> Iterator[None]:
    """Let a head see the chosen places only, as one line."""

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][chosen_BT][None],)

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def sum_over_processes(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum of a tensor over all processes of a training."""
    if accelerator.num_processes == 1:
        return tensor
    return cast(Tensor, accelerator.reduce(tensor, "sum"))


def sum_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """Add up the gradient of every parameter over all processes of a training."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad = sum_over_processes(parameter.grad, accelerator)


def tokens_of_a_forward(host: AbstractHost, asked: int | None, *, on_cpu: int = 2048) -> int:
    """How many tokens go into one forward: as many as asked for, or what suits the device."""
    return asked or (on_cpu if host.device.type == "cpu" else 16384)
