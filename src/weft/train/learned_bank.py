"""K adapters as learned parameters, each as independent of the others as if it were alone.

Gradients, their clipping and the scores of each adapter come from its own rows only.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from weft.host import Dropout
from weft.rows import AbstractHost
from weft.tasks import Encoded
from weft.tasks.batch import pad_id
from weft.train.answer_logits import answer_logits, split_rows, sum_gradients, sum_over_processes
from weft.types import Adapter, Bank, Factors, Mixture, Site


class LearnedBank(nn.Module):
    """K trainable adapters in float32: `a[i]` is [K, R, I] and `b[i]` is [K, O, R] at `sites[i]`.

    A ~ U(-1/sqrt(I), 1/sqrt(I)) as in PEFT, B = 0. Each adapter starts from the seed and its own name.
    """

    def __init__(
        self, sites: Sequence[Site], names: Sequence[str], *, r: int, scaling: float, seed: int
    ) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.names = tuple(names)
        self.scaling = scaling
        chances = [torch.Generator().manual_seed(_seed(seed, name)) for name in names]
        self.a = nn.ParameterList()
        self.b = nn.ParameterList()
        for site in self.sites:
            drawn = [torch.rand(r, site.in_features, generator=chance) for chance in chances]
            self.a.append((torch.stack(drawn) * 2 - 1) * site.in_features**-0.5)
            self.b.append(torch.zeros(len(names), site.out_features, r))

    def part(self, start: int, end: int) -> Bank:
        """Adapters `start` to `end` as a bank, whose gradients add up in those of the parameters.

        They are written there in place, so a forward with a few of many adapters costs nothing for the rest.
        """
        return Bank(
            names=self.names[start:end],
            a={site: _part(a, start, end) for site, a in zip(self.sites, self.a, strict=True)},
            b={site: _part(b, start, end) * self.scaling for site, b in zip(self.sites, self.b, strict=True)},
        )

    def adapter(
        self, index: int, *, base: str, provenance: Mapping[str, Any], dtype: torch.dtype = torch.float32
    ) -> Adapter:
        """One adapter as a value of its own, on the CPU."""
        factors = {
            site: Factors(a[index].detach().cpu().to(dtype), b[index].detach().cpu().to(dtype), self.scaling)
            for site, a, b in zip(self.sites, self.a, self.b, strict=True)
        }
        return Adapter(factors, base=base, name=self.names[index], provenance=provenance)

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Float[Tensor, " K"]:
        """Clip the gradient of each adapter by its own norm; returns the K norms before."""
        grads = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm_K = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()
        factor_K = (max_norm / (norm_K + 1e-6)).clamp(max=1)
        for grad in grads:
            grad.mul_(factor_K[:, None, None])
        return norm_K


def backward(
    host: AbstractHost,
    bank: LearnedBank,
    rows: Sequence[Sequence[Encoded]],
    *,
    tokens: int,
    accelerator: Accelerator,
    dropout: Dropout | None = None,
) -> Float[Tensor, " K"]:
    """Add to each adapter the gradient of its own mean loss; returns the K losses, in nats per answer token.

    `rows[k]` are those of adapter k. Over several processes, each with rows of its own, the mean is over all.
    """
    asked = [sum(len(row.completion_ids) - (not row.prompt_ids) for row in of_one) for of_one in rows]
    asked_K = sum_over_processes(torch.tensor(asked, device=host.device), accelerator).clamp(min=1)
    loss_K = torch.zeros(len(rows), device=host.device)
    for number, forward in enumerate(split_rows(rows, tokens=tokens, pad_id=pad_id(host))):
        packed, start, end, index_B = forward
        mixture = Mixture.rows(bank.part(start, end), index_B)
        with accelerator.autocast():
            logits_NV, targets_N, line_N = answer_logits(
                host, mixture, packed, dropout=dropout and dropout.part(number)
            )
        adapter_N = index_B.to(host.device)[line_N] + start
        loss_N = F.cross_entropy(logits_NV.float(), targets_N, reduction="none") / asked_K[adapter_N]
        accelerator.backward(loss_N.sum())
        loss_K.index_add_(0, adapter_N, loss_N.detach())
    sum_gradients(bank, accelerator)
    return sum_over_processes(loss_K, accelerator)


@torch.no_grad()
def score(host: AbstractHost, adapter: Bank, rows: Sequence[Encoded], *, tokens: int) -> tuple[float, float]:
    """Loss per answer token, in nats, and the share of answers, 0 to 1, that greedy decoding would give.

    For a bank of one adapter. One forward tells: each token of such an answer is the likeliest one.
    """
    loss, places, right, total = 0.0, 0, 0, 0
    for forward in split_rows([rows], tokens=tokens, pad_id=pad_id(host)):
        said = answer_logits(host, Mixture.rows(adapter, forward.index_B), forward.packed)
        loss += float(said.nats())
        places += len(said.targets_N)
        correct, count = forward.packed.count_right(said.logits_NV, said.targets_N)
        right, total = right + correct, total + count
    return loss / max(places, 1), right / max(total, 1)


def _part(parameter: nn.Parameter, start: int, end: int) -> Tensor:
    leaf = parameter.detach()[start:end]
    if torch.is_grad_enabled():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        leaf.requires_grad_().grad = parameter.grad[start:end]
    return leaf


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
