"""What a hypernetwork's training minimises, and how it is measured: answers under generated adapters."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError
from weft.hyper import HyperNetwork
from weft.rows import AbstractHost
from weft.tasks import Draw, Row, Task, render
from weft.tasks.batch import pad_id
from weft.train.answer_logits import answer_logits
from weft.train.cues import CueConfig, make_cue
from weft.train.packing import Packed, pack
from weft.types import Bank, Mixture

_NOTHING_LEFT_OUT = {"description_dropout": 0.0, "examples_dropout": 0.0}


def pack_draws(host: AbstractHost, draws: Sequence[Draw], *, described: bool) -> Packed:
    """`pack_rows` of what was drawn, each behind its description where `described`."""
    told = [draw.description if described else None for draw in draws]
    return pack_rows(host, [draw.rows for draw in draws], told)


def pack_rows(host: AbstractHost, rows: Sequence[Sequence[Row]], told: Sequence[str | None]) -> Packed:
    """One line per task: its rows side by side behind the beginning that they share.

    `told` are the descriptions that stand in the prompts; None for none.
    """
    groups = [
        [render(host.tokenizer, row, description=text) for row in rows_of_task]
        for rows_of_task, text in zip(rows, told, strict=True)
    ]
    return pack(groups, pad_id=pad_id(host))


def loss(
    host: AbstractHost, bank: Bank, packed: Packed, draws: Sequence[Draw], *, kl_weight: float = 0.0
) -> Float[Tensor, ""]:
    """Nats of the answers under their adapters, and `kl_weight` times the distance to the prompted base.

    Both are means over tasks of the mean over a task's answer tokens. Raises ConfigError for a template that
    writes answers otherwise behind a description, where that distance is asked for.
    """
    said = answer_logits(host, Mixture.rows(_on(host, bank), range(len(bank))), packed)
    loss_N = F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="none")
    if kl_weight:
        with torch.no_grad():
            prompted = answer_logits(host, None, pack_draws(host, draws, described=True))
        if not torch.equal(prompted.targets_N, said.targets_N):
            raise ConfigError("the template writes answers otherwise behind a description; use kl_weight 0")
        ours_NV = said.logits_NV.float().log_softmax(-1)
        theirs_NV = prompted.logits_NV.float().log_softmax(-1)
        kl_NV = F.kl_div(ours_NV, theirs_NV, reduction="none", log_target=True)
        loss_N = loss_N + kl_weight * kl_NV.sum(-1)
    return mean_by_line(loss_N, said.line_N, len(bank)).mean()


def mean_by_line(value_N: Tensor, line_N: Tensor, lines: int) -> Tensor:
    """The mean over the places of each line of a pack: [K], from [N]."""
    sum_K = value_N.new_zeros(lines).index_add(0, line_N, value_N)
    return sum_K / torch.bincount(line_N, minlength=lines)


def _on(host: AbstractHost, bank: Bank) -> Bank:
    """The bank in the base's own type, where that is a half one."""
    return bank if host.dtype == torch.float32 else bank.to(host.dtype)


@torch.no_grad()
def steering(
    host: AbstractHost,
    hyper: HyperNetwork,
    tasks: Sequence[Task],
    *,
    rows: int = 4,
    batch: int = 8,
    described: bool = False,
    cue: CueConfig | None = None,
) -> dict[str, float]:
    """What answers to test rows are like under the right description and under the next task's.

    `right` and `other` are shares in [0, 1] of answers that greedy decoding gets right, `margin` their
    difference: an answer counts when each of its tokens is the likeliest one. `loss_right` and `loss_other`
    are nats a token, mean over tasks, `loss_margin` is other minus right, and `steering` 1 - right / other:
    the share of the loss that the right description takes away. Descriptions are unseen wordings where there
    are some; with `described` the right one also stands in the prompt, in both cases. `cue` says
    what the network is shown, nothing left out.
    """
    texts = [(task.unseen_descriptions or task.descriptions)[0] for task in tasks]
    config = CueConfig() if cue is None else cue.model_copy(update=_NOTHING_LEFT_OUT)
    shown = [
        make_cue(config, task, text, task.test[:rows], key=f"steering/{task.name}")
        for task, text in zip(tasks, texts, strict=True)
    ]
    training = hyper.training
    hyper.eval()
    shares, losses = {}, {}
    for name, shift in (("right", 0), ("other", 1)):
        right = total = 0
        nats = 0.0
        for start in range(0, len(tasks), batch):
            chunk = range(start, min(start + batch, len(tasks)))
            cues = [shown[(i + shift) % len(tasks)] for i in chunk]
            bank = hyper.generate(cues)
            told = [texts[i] if described else None for i in chunk]
            packed = pack_rows(host, [tasks[i].test[:rows] for i in chunk], told)
            said = answer_logits(host, Mixture.rows(_on(host, bank), range(len(bank))), packed)
            correct, count = packed.count_right(said.logits_NV, said.targets_N)
            right, total = right + correct, total + count
            loss_N = F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="none")
            nats += float(mean_by_line(loss_N, said.line_N, len(chunk)).sum())
        shares[name] = right / max(total, 1)
        losses[f"loss_{name}"] = nats / len(tasks)
    hyper.train(training)
    return {
        **shares,
        "margin": shares["right"] - shares["other"],
        **losses,
        "loss_margin": losses["loss_other"] - losses["loss_right"],
        "steering": 1 - losses["loss_right"] / losses["loss_other"],
    }
