"""Some layers of a base, which read rows under adapters as the whole base does.

The first part has the token embeddings, the last one the final norm and the output head. Modules keep the
paths that they have in the base, so sites and adapters mean the same here and there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from weft.adapters import fingerprint
from weft.errors import ConfigError
from weft.host import Pool, decoding, sites_of
from weft.host.batches import Batches
from weft.host.cache import RowCache
from weft.host.sites import ALL_LINEAR
from weft.host.span import Acting, Span, StackedFactors, add_mixture
from weft.rows import Share
from weft.types import AbstractGate, Bank, State, Term

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types of Hugging Face whose forward is: embed, rotate, layers, norm, head."""


States = Mapping[AbstractGate, State]
"""What gates have decided."""


class Done(NamedTuple):
    """What a step of a part gives."""

    said: dict[str, Tensor]
    """"x" [B, T, H], or in the last part "logits" [B, V] and the "hidden" [B, H] before them."""
    written: Tensor
    """Keys and values of its layers in turn, as they went into the cache: [2 L, B, heads, T, features]."""
    decided: States
    """What gates have decided up to here, which parts behind this one follow."""


class Part:
    """Layers `first` to `last` (excluded) of a language model; its parameters are frozen.

    Raises ConfigError for a model of another family, with sliding attention, or without these layers.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        first: int,
        last: int,
        *,
        target_modules: str | Sequence[str] = ALL_LINEAR,
    ) -> None:
        config = module.config
        if config.model_type not in FAMILIES:
            raise ConfigError(f"a {config.model_type} is not spread yet; families: {', '.join(FAMILIES)}")
        if set(decoding.layer_types(module)) != {decoding.FULL}:
            raise ConfigError("a base with sliding attention is not spread yet")
        self.layers = decoding.attention_layers(module)
        """Of the whole base."""
        if not 0 <= first < last <= self.layers:
            raise ConfigError(f"there are layers 0 to {self.layers}, a part cannot have {first} to {last}")
        self.module = module.requires_grad_(False)
        self.first, self.last = first, last
        self.base = fingerprint(module)
        inside = range(first, last)
        self.sites = tuple(s for s in sites_of(module, target_modules) if s.layer in inside)
        if not self.sites:
            raise ConfigError(f"layers {first} to {last} have no sites among the target modules")
        self.window = decoding.window_of(module)
        self.vocab_size: int = config.vocab_size
        self.hidden: int = config.hidden_size
        self.device = module.device
        self.dtype = module.dtype
        """Of the states that go from part to part."""
        body = cast(Any, module.model)
        self._embed, self._rotary, self._norm = body.embed_tokens, body.rotary_emb, body.norm
        self._layers: Sequence[nn.Module] = list(body.layers)[first:last]
        self._head = cast(nn.Module, module.get_output_embeddings())
        self._span: ContextVar[Span | None] = ContextVar("weft_part", default=None)
        for site in self.sites:
            module.get_submodule(site.path).register_forward_hook(add_mixture(self._span, site))
        self._batches = Batches(_factors)

    @property
    def is_first(self) -> bool:
        """Whether it begins with token ids."""
        return self.first == 0

    @property
    def is_last(self) -> bool:
        """Whether it ends with logits."""
        return self.last == self.layers

    @cached_property
    def weights(self) -> str:
        """SHA-256 of every parameter of these layers and their ends: their own hash, not the base's."""
        digest = hashlib.sha256()
        ends = [self._embed] if self.is_first else []
        ends += [self._norm, self._head] if self.is_last else []
        for module in [*self._layers, *ends]:
            for name, tensor in module.named_parameters():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def bytes(self) -> int:
        """How much memory the parameters of this part take."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self.module.parameters())

    def new_cache(self) -> RowCache:
        """A cache of no rows over these layers."""
        return RowCache(self.last - self.first)

    @torch.no_grad()
    def embed(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
        """Input embeddings, of the first part alone."""
        return self._embed(ids_BT)

    @torch.no_grad()
    def step(
        self,
        x: Tensor,
        cache: RowCache,
        shares: Sequence[Share],
        counts: Sequence[int],
        pool: Pool,
        decided: States | None = None,
    ) -> Done:
        """Read the next tokens of every row: ids [B, T] in the first part, states [B, T, H] in the others.

        `counts[i]` of the T tokens of row i count. `decided` is what gates have decided in the parts before.
        Raises what `Pool.put` raises.
        """
        rows, tokens = x.shape[:2]
        pooled = any(share.adapters for share in shares)
        batch = self._batches.of(shares, pool if pooled else None, self.device)
        columns_BT, positions_BT = cache.open(tokens, self.device)
        begun = {**batch.states, **(decided or {})}
        span = None
        if batch.terms:
            span = Span(batch.terms, dict(begun), rows, tokens, offset=positions_BT[:, 0], plans=batch.plans)
        x_BTH = self.embed(x) if self.is_first else x
        # The layers number themselves as in the base; what stands before theirs is never asked.
        held = Cache(layers=cast("list[Any]", [cache.layers[0]] * self.first + cache.layers))
        mask = decoding.in_form(self.module, cache.visible(columns_BT))
        cache.written = written = []
        x_BTH = self._through(x_BTH, mask, positions_BT, span, held)
        cache.written = None
        cache.close(counts)
        found = {} if span is None else span.states
        new = {gate: state for gate, state in found.items() if state is not begun.get(gate)}
        if not self.is_last:
            return Done({"x": x_BTH}, torch.stack(written), {**(decided or {}), **new})
        last_B = torch.tensor(counts, device=self.device).clamp(min=1) - 1
        hidden_BH = self._norm(x_BTH)[torch.arange(rows, device=self.device), last_B]
        return Done({"logits": self.head(hidden_BH), "hidden": hidden_BH}, torch.stack(written), {})

    @torch.no_grad()
    def head(self, hidden_BH: Tensor) -> Tensor:
        """The logits [B, V] that follow from states after the final norm; of the last part."""
        return self._head(hidden_BH[:, None])[:, -1]

    def read(
        self,
        x: Tensor,
        terms: Sequence[Term],
        *,
        mask_B1TT: Tensor | None,
        positions_BT: Tensor,
        chosen_BT: Tensor | None = None,
    ) -> Tensor:
        """Whole sequences, without a cache: states [B, T, H], or in the last part logits [N, V] where chosen.

        Differentiable in the states that come in and in the banks of the terms.
        """
        rows, tokens = x.shape[:2]
        acting = tuple(Acting(term, _factors(term.bank)) for term in terms)
        span = Span(acting, {}, rows, tokens) if acting else None
        x_BTH = self._embed(x) if self.is_first else x
        x_BTH = self._through(x_BTH, mask_B1TT, positions_BT, span, None)
        if not self.is_last:
            return x_BTH
        x_BTH = self._norm(x_BTH)
        if chosen_BT is not None:
            return self._head(x_BTH[chosen_BT][None])[0]
        return self._head(x_BTH).flatten(0, 1)

    def _through(
        self, x_BTH: Tensor, mask: Any, positions_BT: Tensor, span: Span | None, held: Cache | None
    ) -> Tensor:
        rotation = self._rotary(x_BTH, position_ids=positions_BT)
        token = self._span.set(span)
        try:
            for layer in self._layers:
                x_BTH = layer(
                    x_BTH,
                    attention_mask=mask,
                    position_ids=positions_BT,
                    past_key_values=held,
                    use_cache=held is not None,
                    position_embeddings=rotation,
                )
        finally:
            self._span.reset(token)
        return x_BTH


def _factors(bank: Bank) -> StackedFactors:
    return {site.path: (bank.a[site], bank.b[site]) for site in bank.a}
