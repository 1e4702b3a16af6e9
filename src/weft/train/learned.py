"""K adapters as learned parameters, each as independent of the others as if it were alone."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.types import Adapter, Bank, Factors, Site


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

    def adapter(self, index: int, *, base: str, provenance: Mapping[str, Any]) -> Adapter:
        """One adapter as a value of its own, on the CPU."""
        factors = {
            site: Factors(a[index].detach().cpu(), b[index].detach().cpu(), self.scaling)
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


def _part(parameter: nn.Parameter, start: int, end: int) -> Tensor:
    leaf = parameter.detach()[start:end]
    if torch.is_grad_enabled():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        leaf.requires_grad_().grad = parameter.grad[start:end]
    return leaf


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
