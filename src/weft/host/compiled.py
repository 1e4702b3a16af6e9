"""A decode step of fixed shapes, compiled whole: an option that changes speed and nothing else.

Compilers want shapes that stay. So rows are filled up to a bucket of rows, the cache is read up to a bucket
of columns, and all slots of a pool of fixed size run, those that a row does not use at weight 0: rows that
come, end or change, and adapters that enter or leave their slots, change numbers in place and recompile
nothing. Each pair of buckets is one graph, compiled when it is first met, and one more where each row has an
adapter of its own, at weight 1, and a bucket of rows fits the slots: then a slot runs on its own row alone.

On a CPU the weights are frozen into the graph, packed for few rows at a time: a fifth less time in the matrix
products, for a copy of the weights in memory per graph.

The graph runs over a twin of the module that shares its parameters and has hooks of its own, since the hooks
of a host ask who acts, which no graph can hold.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch._inductor.config as inductor
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from weft.errors import ConfigError
from weft.host.cache import RowCache
from weft.host.kernels import apart, side_by_side
from weft.host.pool import Pool
from weft.host.share import one_each, places_of, weighed_slots, weight_matrix
from weft.rows import Share
from weft.types import Site

_COLUMNS = 64
"""Least bucket of columns; the others are its doubles."""
_ATTENTION = "weft-decode-step"
_GRAPHS = 128
"""Most graphs of one process: up to two for a pair of buckets, of every host that is compiled."""
_NUMBERS = itertools.count()

_Who = tuple[Tensor] | tuple[Tensor, Tensor, Tensor]
"""Every row's weight of every slot, once per rank; or the places of rows that `kernels.apart` takes."""


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
        self._key: tuple[int, ...] = ()
        self._shares: tuple[Share, ...] = ()
        """Those that were weighed, kept so that their ids stay theirs."""
        self._who: _Who = (torch.zeros(0),)
        self._acting: tuple[_Who, dict[str, tuple[Tensor, Tensor]]] | None = None
        """In the step under way: who acts where, and each site's factors, (a_NIR, b_NRO)."""
        self._hidden_BTH: Tensor | None = None
        self._layers = [_Blocks() for _ in range(module.config.get_text_config().num_hidden_layers)]
        self._twin = _twin(module)
        self._number = next(_NUMBERS)
        self._factors = {site.path: (a_NRI.mT, pool.bank.b[site].mT) for site, a_NRI in pool.bank.a.items()}
        for site in sites:
            if site.path in self._factors:
                self._twin.get_submodule(site.path).register_forward_hook(self._add(site))
        head = cast(nn.Module, self._twin.get_output_embeddings())
        head.register_forward_pre_hook(self._keep)
        self._graph: Callable[..., tuple[Tensor, Tensor]] = torch.compile(
            self._forward, fullgraph=True, dynamic=False
        )

    def takes(self, shares: Sequence[Share], cache: RowCache) -> bool:
        """Whether these rows fit: at most so many, begun, no longer than told, under adapters of the pool."""
        return (
            len(shares) <= self.rows
            and min(cache.lengths) > 0  # a first token makes the blocks
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
            self._shares, self._who = tuple(shares), self._asked(shares)
            self._key = (self.pool.version, *map(id, shares))  # putting in may have raised the version
        rows, full = len(ids_B1), _bucket(len(shares), 1)
        for layer in cache.layers:
            layer.reserve(self.rows, self.columns)
        columns_BT, positions_BT = cache.open(1, ids_B1.device)
        fill = full - rows
        ids_B1, columns_BT, positions_BT = (
            nn.functional.pad(tensor, (0, 0, 0, fill)) for tensor in (ids_B1, columns_BT, positions_BT)
        )
        on_cpu = ids_B1.device.type == "cpu"
        with torch._dynamo.config.patch(recompile_limit=_GRAPHS), inductor.patch(freezing=on_cpu):
            # All that changes is an argument: what the graph finds by itself may be frozen into it.
            logits_BV, hidden_BH = self._graph(
                ids_B1,
                columns_BT,
                positions_BT,
                self._who,
                self._factors,
                [(layer.keys, layer.values) for layer in cache.layers],
                _bucket(cache.columns, _COLUMNS),
                self._frozen(),
            )
        cache.close([1] * rows)
        return logits_BV[:rows], hidden_BH[:rows]

    def _frozen(self) -> tuple[int, int]:
        """Whose weights a graph holds, and how often they were written to: another's is not taken."""
        return self._number, sum(
            tensor._version for tensor in (*self._twin.parameters(), *self._twin.buffers())
        )

    def _asked(self, shares: Sequence[Share]) -> _Who:
        """Who acts where; nobody does on the rows that fill the bucket."""
        like = next(iter(self.pool.bank.a.values()))
        slots = [*weighed_slots(shares, self.pool), *[[]] * (_bucket(len(shares), 1) - len(shares))]
        index = one_each(slots)
        if index is not None:
            take_N, back_B, base_N = places_of(index, self.pool.slots)
            if len(take_N) == self.pool.slots:
                return take_N.to(like.device), back_B.to(like.device), base_N.to(like.device)
        return (weight_matrix(slots, self.pool.slots).to(like).repeat_interleave(self.pool.r, 1),)

    def _forward(
        self,
        ids_B1: Tensor,
        columns_B1: Tensor,
        positions_B1: Tensor,
        who: _Who,
        factors: dict[str, tuple[Tensor, Tensor]],
        blocks: list[tuple[Tensor, Tensor]],
        columns: int,
        frozen: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        assert min(frozen) >= 0  # what a graph does not look at, it is not kept apart by
        self._acting = who, factors
        for layer, (keys, values) in zip(self._layers, blocks, strict=True):
            layer.open(keys, values, columns_B1, columns)
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
        def add(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            assert self._acting is not None
            who, factors = self._acting
            a_NIR, b_NRO = factors[site.path]
            if len(who) == 3:
                return apart(output, inputs[0], a_NIR, b_NRO, who)
            return side_by_side(output, inputs[0], a_NIR.mT.flatten(0, 1).T, b_NRO.flatten(0, 1), *who)

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

    def open(self, keys: Tensor, values: Tensor, write_B1: Tensor, columns: int) -> None:
        """What the step under way writes and reads."""
        self.keys, self.values = keys, values
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
    twin.config._attn_implementation = _ATTENTION
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return twin


def _grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token; the heads that share keys take a sequence's place, so no key is copied.

    Hugging Face does the same, but repeats keys and values in what it compiles.
    """
    rows, heads, size = query.shape[0], query.shape[1], query.shape[3]
    query = query.reshape(rows, key.shape[1], -1, size)
    out = nn.functional.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, value.shape[-1]), None


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _grouped_attention)


def _bucket(count: int, least: int) -> int:
    """The next of least, 2 least, 4 least, ..."""
    while least < count:
        least *= 2
    return least
