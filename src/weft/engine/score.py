"""How likely given completions are: the loss of an evaluation, and multiple choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from weft.engine.batch import check_rows
from weft.errors import ConfigError
from weft.host import Host
from weft.rows import AbstractHost, Share
from weft.types import IGNORE, Bank, Dense, Mixture, Term


def nll(
    host: AbstractHost,
    ids_BT: Int[Tensor, "B T"],
    labels_BT: Int[Tensor, "B T"],
    mixture: Mixture | None = None,
    *,
    mask_BT: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, " B"]:
    """Summed negative log-likelihood of every row's labels, in nats; differentiable.

    `labels_BT` is in Hugging Face's form: the ids of the completion in their own columns, -100 elsewhere; the
    first column cannot be predicted and does not count. Padding may be on either side. Gates that decide on
    the prompt see what has no label.
    """
    if not (labels_BT[:, 1:] != IGNORE).any():
        return torch.zeros(ids_BT.shape[0], device=ids_BT.device)
    logits_BTV, labels_BT = predict(host, ids_BT, labels_BT, mixture, mask_BT=mask_BT)
    return cross_entropy(logits_BTV.transpose(1, 2), labels_BT, ignore_index=IGNORE, reduction="none").sum(1)


def predict(
    host: AbstractHost,
    ids_BT: Int[Tensor, "B T"],
    labels_BT: Int[Tensor, "B T"],
    mixture: Mixture | None = None,
    *,
    mask_BT: Int[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B t V"], Int[Tensor, "B t"]]:
    """Logits and labels from the column of the first label on, at least one there; differentiable.

    Gates that decide on the prompt see what has no label: an answer must not choose its own adapters. Raises
    ConfigError for a host that is not local.
    """
    if not isinstance(host, Host):
        raise ConfigError("losses are measured on a local host; a spread one writes and trains")
    states = None
    if mixture is not None:
        check_rows(mixture, ids_BT.shape[0])
        prompt_BT = labels_BT == IGNORE
        if mask_BT is not None:
            prompt_BT = prompt_BT & mask_BT.bool()
        states = host.prepare(ids_BT, mixture, mask_BT=prompt_BT)
    # logits are the largest tensor here: ask for none before the first label
    first = int((labels_BT[:, 1:] != IGNORE).any(0).nonzero()[0])
    keep = ids_BT.shape[1] - first
    out = host.forward(ids_BT, mixture, mask_BT=mask_BT, states=states, logits_to_keep=keep)
    return out.logits[:, :-1].float(), labels_BT[:, first + 1 :]


@torch.no_grad()
def prompt_logits(host: AbstractHost, ids: Sequence[int], share: Share) -> Float[Tensor, "T V"]:
    """What a host says at every token of a text under a row's share. Raises what `forward` raises."""
    terms = share.terms
    if share.adapters:
        # In float32, as the pool keeps them: what is told of a prompt is what they say while it is continued.
        bank = Bank.stack([adapter for adapter, _ in share.adapters]).to(host.device, torch.float32)
        weight_BK = torch.tensor([[weight for _, weight in share.adapters]], device=host.device)
        terms = (Term(bank, Dense(weight_BK)), *terms)
    ids_BT = torch.tensor([list(ids)], device=host.device)
    return host.forward(ids_BT, Mixture(terms)).logits[0].float()
