"""Diagonal Fisher information of the effective weights of sites: how sure the model is of every entry.

    F = mean over examples x of sum over positions t of E_{y ~ p(. | x, t)} (d log p(y | x, t) / d W)^2

Matena and Raffel 2022, "Merging Models with Fisher-Weighted Averaging" (arXiv 2111.09832). W is the base's
weight and all deltas together, so F belongs to deltas and not to the factors that make them. The gradient of
one example at a linear module is sum_t g_t x_t^T, squared after the sum over its tokens. Labels come from
the model: sampled (unbiased), or all of the vocabulary (exact).

Departs from the paper in: an example predicts many tokens; given the text before it, each is a label of its
own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.host.host import Host
from weft.types import IGNORE, Mixture, Site

Batches = Iterable[tuple[Tensor, Tensor, Tensor]]
"""(ids, mask, labels), each [B, T], as `weft.tasks.collate` makes them; labels of -100 are not predicted."""


def fisher_diagonal(
    host: Host,
    mixture: Mixture | None,
    batches: Batches,
    *,
    labels: str = "sampled",
    samples: int = 1,
    seed: int = 0,
    sites: Sequence[Site] | None = None,
) -> dict[Site, Float[Tensor, "O I"]]:
    """The diagonal at every site (all of the host's unless given), in float32, averaged over all rows.

    `sampled` takes `samples` backward passes per batch; `exact` takes one per position and entry of the
    vocabulary, so it is for small ones. The labels of a batch only say where the model predicts. Raises
    ConfigError for options that cannot be, rows that predict nothing, and modules that see tokens without
    their rows; UnknownNameError for a site that is not the host's.
    """
    if labels not in ("sampled", "exact"):
        raise ConfigError(f"labels is {labels!r}; they are `sampled` from the model, or `exact`: all of them")
    if samples < 1:
        raise ConfigError(f"samples is {samples}, it should be at least 1")
    chosen = check_sites(host, sites)
    chance = torch.Generator().manual_seed(seed)
    total = {
        s: torch.zeros(s.out_features, s.in_features, dtype=torch.float32, device=host.device) for s in chosen
    }
    rows = 0
    for batch in batches:
        ids_BT, mask_BT, labels_BT = (tensor.to(host.device) for tensor in batch)
        counted_BT = labels_BT[:, 1:] != IGNORE
        if not counted_BT.any(1).all():
            raise ConfigError("a row predicts nothing: all of its labels are -100")
        rows += len(ids_BT)
        with torch.enable_grad(), _probing(host, chosen) as seen:
            logits_BTV = host(ids_BT, mixture, mask_BT=mask_BT, use_cache=False).logits[:, :-1].float()
            log_p_BTV = logits_BTV.log_softmax(-1)
        for loss, scale in _losses(log_p_BTV, counted_BT, labels, samples, chance):
            _add_squares(total, seen, loss, scale)
    if not rows:
        raise ConfigError("there are no batches to collect a Fisher from")
    return {site: f_OI / rows for site, f_OI in total.items()}


def check_sites(host: Host, sites: Sequence[Site] | None) -> tuple[Site, ...]:
    """The sites to look at, all of the host's by default. Raises UnknownNameError for one that it lacks."""
    known = {site.path: site for site in host.sites}
    for site in sites or ():
        if known.get(site.path) != site:
            raise UnknownNameError(f"{site.path} is no site of this host{nearest(site.path, known)}")
    return host.sites if sites is None else tuple(sites)


def _losses(
    log_p_BTV: Tensor, counted_BT: Tensor, labels: str, samples: int, chance: torch.Generator
) -> Iterator[tuple[Tensor, float]]:
    """Sums over rows whose gradients, squared row by row and scaled, add up to the Fisher."""
    p_BTV = log_p_BTV.detach().exp()
    if labels == "sampled":
        for _ in range(samples):
            # On the CPU, so that every device draws the same.
            drawn = torch.multinomial(p_BTV.flatten(0, 1).cpu(), 1, generator=chance)
            drawn_BT1 = drawn.view(*counted_BT.shape, 1).to(log_p_BTV.device)
            yield log_p_BTV.gather(2, drawn_BT1)[..., 0][counted_BT].sum(), 1.0 / samples
        return
    for t in counted_BT.any(0).nonzero().flatten().tolist():
        for token in range(log_p_BTV.shape[2]):
            # The root goes into the gradient, and comes out of its square as the probability.
            loss_B = p_BTV[:, t, token].sqrt() * log_p_BTV[:, t, token]
            yield loss_B[counted_BT[:, t]].sum(), 1.0


def _add_squares(
    total: dict[Site, Tensor], seen: dict[Site, list[tuple[Tensor, Tensor]]], loss: Tensor, scale: float
) -> None:
    probes = [probe for calls in seen.values() for _, probe in calls]
    gradients = iter(torch.autograd.grad(loss, probes, retain_graph=True, materialize_grads=True))
    for site, calls in seen.items():
        pairs = [(x_BTI, next(gradients)) for x_BTI, _ in calls]
        for row in range(len(pairs[0][0])):
            g_OI = torch.stack([g_BTO[row].float().mT @ x_BTI[row].float() for x_BTI, g_BTO in pairs]).sum(0)
            total[site] += scale * g_OI.square()


@contextmanager
def _probing(host: Host, sites: Sequence[Site]) -> Iterator[dict[Site, list[tuple[Tensor, Tensor]]]]:
    """Inputs of the sites, and zeros that were added to their outputs and take the gradient there.

    The hooks come after the host's own, so they see what the mixture has added.
    """
    seen: dict[Site, list[tuple[Tensor, Tensor]]] = {}
    hooks = [host.module.get_submodule(s.path).register_forward_hook(_probe(seen, s)) for s in sites]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _probe(seen: dict[Site, list[tuple[Tensor, Tensor]]], site: Site) -> Any:
    def add(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if inputs[0].dim() != 3:
            raise ConfigError(f"{site.path} sees tokens without their rows; leave it out of `sites`")
        probe_BTO = torch.zeros_like(output, requires_grad=True)
        seen.setdefault(site, []).append((inputs[0].detach(), probe_BTO))
        return output + probe_BTO

    return add
