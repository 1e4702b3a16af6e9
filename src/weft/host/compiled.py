"""A decode step of fixed shapes, compiled whole: an option that changes speed and nothing else.

Compilers want shapes that stay. So rows are filled up to a bucket of rows, the cache is read up to a bucket
of columns, and all slots of a pool of fixed size run on every row, those that a row does not use at weight 0:
rows that come, end or change, and adapters that enter or leave their slots, change numbers in place and
recompile nothing. Each pair of buckets is one graph, compiled when it is first met.

The graph runs over a twin of the module that shares its parameters and has hooks of its own, since the hooks
of a host ask who acts, which no graph can hold.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from weft.errors import ConfigError
from weft.host.cache import RowCache
from weft.host.kernels import side_by_side
from weft.host.pool import Pool
from weft.host.share import weighed_slots
from weft.rows import Share
from weft.types import Site

_COLUMNS = 64
"""Least bucket of columns; the others are its doubles."""
_GRAPHS = 64
"""Most pairs of buckets."""


class CompiledStep:
    """Compiled decode steps of up to `rows` rows of up to `columns` tokens, under the adapters of a pool.

    Raises ConfigError for a module whose layers do not all see their whole past, or a pool that grows.
    """

    def __init__(
        self, module: nn.Module, sites: Sequence[Site], pool: Pool, *, rows: int, columns: int
    ) -> None:
        if not isinstance(module, PreTrainedModel) or module.config._attn_implementation != "sdpa":
            raise ConfigError("a compiled step needs a Hugging Face language model with sdpa attention")
        if getattr(module.config.get_text_config(), "sliding_window", None) is not None:
            raise ConfigError("a compiled step reads the whole cache, this model has sliding windows")
        if pool.grow:
            raise ConfigError("a compiled step needs a pool of fixed size; set host.pool to one")
        self.pool, self.rows, self.columns = pool, rows, columns
        self._paths = {site.path for site in pool.bank.a}
        self._key: tuple[int, ...] = ()
        self._shares: tuple[Share, ...] = ()
        """Those that were weighed, kept so that their ids stay theirs."""
        self._weighed = torch.zeros(0)
        self._scale_BM: Tensor | None = None
        self._hidden_BTH: Tensor | None = None
        self._layers = [_Blocks() for _ in range(module.config.get_text_config().num_hidden_layers)]
        self._twin = _twin(module)
        for site in sites:
            if site.path in self._paths:
                self._twin.get_submodule(site.path).register_forward_hook(self._add(site))
        head = cast(nn.Module, self._twin.get_output_embeddings())
        head.register_forward_pre_hook(self._keep)
        self._graph: Callable[..., tuple[Tensor, Tensor]] = torch.compile(
            self._forward, fullgraph=True, dynamic=False
        )

    def takes(self, shares: Sequence[Share], cache: RowCache) -> bool:
        """Whether these rows fit: at most so many, no longer than told, under adapters of the pool alone."""
        return (
            len(shares) <= self.rows
            and max(cache.lengths) < self.columns
            and not any(share.terms for share in shares)
        )

    @torch.no_grad()
    def step(
        self, ids_B1: Int[Tensor, "B 1"], cache: RowCache, shares: Sequence[Share]
    ) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B H"]]:
        """Read one token of every row; logits in float32, and the states that the output head read.

        Raises what `Pool.put` raises.
        """
        key = (self.pool.version, *map(id, shares))
        if key != self._key:
            self._shares, self._weighed = tuple(shares), self._weights(shares)
            self._key = (self.pool.version, *map(id, shares))  # putting in may have raised the version
        rows, full = len(ids_B1), len(self._weighed)
        for layer, blocks in zip(cache.layers, self._layers, strict=True):
            layer.reserve(self.rows, self.columns)
            blocks.keys, blocks.values = layer.keys, layer.values
        columns_BT, positions_BT = cache.open(1, ids_B1.device)
        fill = full - rows
        ids_B1, columns_BT, positions_BT = (
            nn.functional.pad(tensor, (0, 0, 0, fill)) for tensor in (ids_B1, columns_BT, positions_BT)
        )
        with torch._dynamo.config.patch(recompile_limit=_GRAPHS):
            logits_BV, hidden_BH = self._graph(
                ids_B1, columns_BT, positions_BT, self._weighed, _bucket(cache.columns, _COLUMNS)
            )
        cache.close([1] * rows)
        return logits_BV[:rows], hidden_BH[:rows]

    def _weights(self, shares: Sequence[Share]) -> Float[Tensor, "B M"]:
        """Every row's weight of every slot, once per rank; rows that fill the bucket have none."""
        weight_BK = torch.zeros(_bucket(len(shares), 1), self.pool.slots)
        for row, weighed in enumerate(weighed_slots(shares, self.pool)):
            for slot, weight in weighed:
                weight_BK[row, slot] += weight
        like = next(iter(self.pool.bank.a.values()))
        return weight_BK.to(like).repeat_interleave(self.pool.r, 1)

    def _forward(
        self, ids_B1: Tensor, columns_B1: Tensor, positions_B1: Tensor, scale_BM: Tensor, columns: int
    ) -> tuple[Tensor, Tensor]:
        self._scale_BM = scale_BM
        for layer in self._layers:
            layer.open(columns_B1, columns)
        seen_B11C = torch.arange(columns, device=ids_B1.device) <= columns_B1[:, :, None, None]
        out = self._twin(
            input_ids=ids_B1,
            past_key_values=Cache(layers=cast("list[Any]", list(self._layers))),
            use_cache=True,
            attention_mask=seen_B11C,
            position_ids=positions_B1,
        )
        assert self._hidden_BTH is not None
        return out.logits[:, -1].float(), self._hidden_BTH[:, -1]

    def _add(self, site: Site) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        a_MI = self.pool.bank.a[site].flatten(0, 1)
        b_MO = self.pool.bank.b[site].mT.flatten(0, 1)

        def add(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return side_by_side(output, inputs[0], a_MI, b_MO, self._scale_BM)

        return add

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._hidden_BTH = inputs[0]


class _Blocks(CacheLayerMixin):
    """One layer's blocks of a `RowCache`, read up to a bucket of columns."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized = True
        self.columns = 0
        self.write_B1: Tensor | None = None

    def open(self, write_B1: Tensor, columns: int) -> None:
        """What the step under way writes and reads."""
        self.write_B1, self.columns = write_B1, columns

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        rows = key_states.shape[0]
        row_B1 = torch.arange(rows, device=key_states.device)[:, None]
        self.keys[row_B1, :, self.write_B1] = key_states.transpose(1, 2)
        self.values[row_B1, :, self.write_B1] = value_states.transpose(1, 2)
        return self.keys[:rows, :, : self.columns], self.values[:rows, :, : self.columns]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.columns, 0

    def get_seq_length(self) -> int:
        return self.columns

    def get_max_length(self) -> int:
        return self.columns


def _twin(module: PreTrainedModel) -> PreTrainedModel:
    """The same network over the same parameters and buffers, without hooks."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    twin = copy.deepcopy(module, shared)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return twin


def _bucket(count: int, least: int) -> int:
    """The next of least, 2 least, 4 least, ..."""
    while least < count:
        least *= 2
    return least
