"""A frozen network that runs under a Mixture.

One forward hook per site, registered once, adds the low-rank part to the site's output. It reads the
mixture from a context variable that holds it for the span of one forward: the module tree, the parameter
names and the weights, quantised or not, stay as they were, and A and B keep their gradient.
"""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from weft.adapters import fingerprint
from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError, WeightsError
from weft.files import nearest
from weft.host import decoding
from weft.host.batches import Batches
from weft.host.cache import RowCache
from weft.host.compiled import CompiledStep
from weft.host.decoding import Last, pick_last
from weft.host.dropout import Dropout
from weft.host.load import load_model
from weft.host.pool import Pool
from weft.host.sites import ALL_LINEAR, sites_of
from weft.host.span import Acting, Span, StackedFactors, add_mixture
from weft.rows import AbstractCache, AbstractHost, Share, Stepped
from weft.types import AbstractGate, Bank, Mixture, State

States = Mapping[AbstractGate, State]
"""What gates decided once, by gate."""


@dataclass(frozen=True, eq=False)
class _Prompt:
    """What a cache was begun with, so that gates decide on the prompt whenever they join."""

    ids_BT: Tensor
    mask_BT: Tensor | None
    states: dict[AbstractGate, State] = field(default_factory=dict)


class Host(AbstractHost):
    """A network with sites: any causal language model of Hugging Face, or any module with linear layers.

    The parameters are frozen. Hosts over one module do not see each other's mixtures.

    Raises UnknownNameError for a target module that is not there, ConfigError for a pattern that is none and
    for a network that PEFT has put adapters into.

    Args:
        module: The network; its parameters stop asking for gradients.
        tokenizer: Hugging Face's tokenizer for it; an `Engine` needs one, token ids alone do not.
        target_modules: What becomes a site, as PEFT reads it; see `sites_of`.
        name: What the network is called; a folder or Hub id that it can be loaded from again.

    Example:
        >>> host = weft.Host.from_pretrained("weft/letters")
        >>> adapter = weft.load("weft/letters-adapters/reverse")
        >>> ids_BT = torch.tensor([host.tokenizer.encode("cab")])
        >>> host(ids_BT, weft.Mixture.of(adapter)).logits.shape[2] == host.vocab_size
        True
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        tokenizer: Any = None,
        target_modules: str | Sequence[str] = ALL_LINEAR,
        name: str = "",
    ) -> None:
        if any(hasattr(part, "adapter_layer_names") for part in module.modules()):
            raise ConfigError(
                "PEFT has put adapters into this network, so its modules have other names; take them out by "
                "unload() of the PEFT model, and give what it saves to weft.load"
            )
        self.module = module.requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint(module)
        self.generation_config = getattr(module, "generation_config", None)
        self.sites = sites_of(module, target_modules)
        self._takes_positions = "position_ids" in inspect.signature(module.forward).parameters
        self._span: ContextVar[Span | None] = ContextVar("weft_span", default=None)
        self._factors: WeakKeyDictionary[Bank, StackedFactors] = WeakKeyDictionary()
        self._prompts: WeakKeyDictionary[Any, _Prompt] = WeakKeyDictionary()
        self._pool: Pool | None = None
        self._compiled: CompiledStep | None = None
        self._batches = Batches(self._checked)
        self._checkpointed = [m for m in module.modules() if isinstance(m, GradientCheckpointingLayer)]
        self._lock = threading.RLock()  # of pool and batches, which all loops over this host share
        self._last: ContextVar[Last | None] = ContextVar("weft_last", default=None)
        for site in self.sites:
            module.get_submodule(site.path).register_forward_hook(add_mixture(self._span, site))
        head = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
        if head is not None:
            head.register_forward_pre_hook(pick_last(self._last))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        target_modules: str | Sequence[str] = ALL_LINEAR,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> Host:
        """Load a causal language model: an embedded name (`weft/letters`), a local folder, or a Hub id.

        Weights are read from safetensors alone. A local folder without a tokenizer gives a host without one.

        Raises MissingFileError when nothing is there or weights are missing or damaged, ConfigError for what
        is no causal language model, runs code of its own that nobody allowed or is quantised in a way that
        nothing here reads, and for a dtype or device that cannot be used, UnknownNameError for an embedded
        name or target module that is not there, MissingExtraError for a package that is not here.

        Args:
            name_or_path: Embedded name, folder or Hub id.
            dtype: Number type of the weights; "auto" is the one that they are stored in.
            device: Where they go: cpu, cuda, cuda:1, ...
            target_modules: What becomes a site, as PEFT reads it; see `sites_of`.
            revision: Branch, tag or commit of a Hub repository.
            trust_remote_code: Whether code of a Hub repository may run here.
        """
        module, tokenizer = load_model(
            name_or_path, dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code
        )
        return cls(module, tokenizer=tokenizer, target_modules=target_modules, name=os.fspath(name_or_path))

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the first parameter that holds real numbers; quantised weights do not."""
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def vocab_size(self) -> int:
        """How many token ids the embeddings know; 0 for a module without them."""
        if not isinstance(self.module, PreTrainedModel):
            return 0
        return self.module.get_input_embeddings().num_embeddings  # pyright: ignore

    @property
    def window(self) -> int | None:
        """Most positions that a row may have; None where the model's config names no limit."""
        return decoding.window_of(self.module)

    @property
    def endless(self) -> bool:
        """Whether positions beyond the window can be computed: rotary ones can, a learned table ends."""
        return self.window is None or decoding.is_rotary(self.module)

    def forward(
        self,
        ids_BT: Int[Tensor, "B T"],
        mixture: Mixture | None = None,
        *,
        mask_BT: Int[Tensor, "B PT"] | Bool[Tensor, "B PT"] | None = None,
        cache: Any = None,
        states: States | None = None,
        dropout: Dropout | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """Run a language model under a mixture; returns Hugging Face's output with `.logits` [B, T, V].

        Its `.states` are what the gates decided. With a cache of P columns the mask has P + T of them.
        Padding may be on either side: positions count the tokens that the mask shows. Without a cache none is
        made, unless `use_cache=True` asks for one.

        A gate with `prepare` decides when a cache begins (or, without one, in every forward), and its
        decision stays with the cache; one that joins later decides on what the cache began with. `states`,
        from `prepare`, take the place of these decisions. `dropout` is for training.

        Raises ShapeError for a mask or an assignment of another size and, on a CPU, for token ids without an
        embedding, BaseMismatchError for a bank of another base, UnknownNameError for one that changes modules
        which are no sites of this host, WeightsError for one that holds NaN or infinity.
        """
        past = 0 if cache is None else int(cache.get_seq_length())
        columns = past + ids_BT.shape[1]
        if mask_BT is not None:
            if mask_BT.shape != (ids_BT.shape[0], columns):
                raise ShapeError(
                    f"the mask is {tuple(mask_BT.shape)}, expected {(ids_BT.shape[0], columns)}: "
                    f"{past} columns in the cache and {ids_BT.shape[1]} new ones"
                )
            mask_BT = mask_BT.long()
            model_kwargs["attention_mask"] = mask_BT
            if self._takes_positions:
                positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
                model_kwargs.setdefault("position_ids", positions_BT[:, past:])
        model_kwargs.setdefault("use_cache", cache is not None)
        prompt = _Prompt(ids_BT, mask_BT)
        if cache is not None and not past:
            self._prompts[cache] = prompt
        if mixture is not None and states is None and _deciding(mixture):
            if past and cache not in self._prompts:
                raise ShapeError("this host did not begin this cache; pass states=host.prepare(prompt, ...)")
            states = self._decide(mixture, self._prompts[cache] if past else prompt)
        span = self._span_of(mixture, states, ids_BT.shape[0], ids_BT.shape[1], past)
        if span is not None and dropout is not None:
            span = replace(span, dropout=dropout)
        try:
            with self._during(span):
                out = self.module(input_ids=ids_BT, past_key_values=cache, **model_kwargs)
        except IndexError:
            self._check_ids(ids_BT)
            raise
        out.states = {} if span is None else span.states
        if cache is None and model_kwargs["use_cache"] and out.past_key_values is not None:
            self._prompts[out.past_key_values] = prompt
        return out

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The same as `forward`."""
        return self.forward(*args, **kwargs)

    def prepare(
        self,
        ids_BT: Int[Tensor, "B T"],
        mixture: Mixture,
        *,
        mask_BT: Int[Tensor, "B T"] | Bool[Tensor, "B T"] | None = None,
    ) -> States:
        """What the gates of a mixture decide on a prompt; hand it to `forward` as `states`."""
        return self._decide(mixture, _Prompt(ids_BT, mask_BT))

    def new_cache(self) -> RowCache:
        """A cache of no rows.

        Raises ConfigError for a network that keeps no keys and values, or that checkpoints gradients.
        """
        if any(layer.training and layer.gradient_checkpointing for layer in self._checkpointed):
            raise ConfigError(
                "gradient checkpointing is on, which keeps no keys and values to decode with; "
                "call host.module.eval() first"
            )
        return RowCache(decoding.attention_layers(self.module))

    def embed(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
        """Input embeddings. Raises ConfigError for a module without token embeddings."""
        if not isinstance(self.module, PreTrainedModel):
            raise ConfigError("gates decide on token embeddings, this module has none; use running")
        return self.module.get_input_embeddings()(ids_BT)

    @property
    def pool(self) -> Pool:
        """The adapters that are ready to act; it grows as they come, until another pool is set."""
        if self._pool is None:
            self._pool = Pool(self.sites, slots=4, r=8, base=self.fingerprint, device=self.device, grow=True)
        return self._pool

    @pool.setter
    def pool(self, pool: Pool) -> None:
        self._pool = pool
        self._compiled = None
        self._batches.clear()

    def compile(self, *, rows: int = 16, columns: int = 1024) -> None:
        """Compile the decode steps of up to `rows` rows of up to `columns` tokens under adapters of the pool.

        Each size is compiled when it is first met, once for rows that each have an adapter of their own at
        weight 1, once for all others; larger steps, gates and banks run as before. On a CPU each graph
        holds a copy of the weights. Setting another pool ends it. Raises ConfigError for a pool that
        grows (set a `Pool` of fixed size first), or a model without plain sdpa attention.
        """
        self._compiled = CompiledStep(self.module, self.sites, self.pool, rows=rows, columns=columns)

    def hold(self, share: Share) -> None:
        """Keep the adapters of a share in the pool until it is released. Raises what `Pool.pin` raises."""
        with self._lock:
            self.pool.pin_all([adapter for adapter, _ in share.adapters])

    def release(self, share: Share) -> None:
        """Let the adapters of a share be evicted again."""
        with self._lock:
            self.pool.unpin_all([adapter for adapter, _ in share.adapters])

    @torch.no_grad()
    def step(
        self,
        ids_BT: Int[Tensor, "B T"],
        cache: AbstractCache,
        shares: Sequence[Share],
        *,
        counts: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
        capture: bool = False,
    ) -> Stepped:
        """As `AbstractHost.step`, on a `RowCache`.

        Raises ShapeError as that does, ConfigError for a network that cannot decode, and as `Pool.put`.
        """
        rows, tokens = ids_BT.shape
        counts = [tokens] * rows if counts is None else counts
        if not isinstance(cache, RowCache):
            raise ShapeError("a local host steps on its own caches; begin one with new_cache")
        if not cache.lengths:
            cache.begin([0] * rows if starts is None else starts)
        if not rows == len(cache.lengths) == len(shares) == len(counts):
            raise ShapeError(
                f"{rows} rows of tokens, {len(cache.lengths)} in the cache, {len(shares)} shares "
                f"and {len(counts)} counts"
            )
        if self._compiled is not None and tokens == 1 and self._compiled.takes(shares, cache):
            with self._lock:  # its graphs write into buffers of their own
                logits_BV, hidden_BH = self._compiled.step(ids_BT, cache, shares)
            return Stepped(logits_BV, hidden_BH if capture else None)
        pooled = any(share.adapters for share in shares)
        with self._lock:
            batch = self._batches.of(shares, self.pool if pooled else None, self.device)
        columns_BT, positions_BT = cache.open(tokens, self.device)
        span = Span(
            batch.terms, dict(batch.states), rows, tokens, offset=positions_BT[:, 0], plans=batch.plans
        )
        last = Last(torch.tensor(counts, device=self.device) - 1 if tokens > 1 else None)
        token = self._last.set(last)
        try:
            with self._during(span if batch.terms else None):
                out = self.module(
                    input_ids=ids_BT,
                    past_key_values=cache.as_hugging_face(),
                    use_cache=True,
                    attention_mask=decoding.masks(self.module, cache, columns_BT),
                    **({"position_ids": positions_BT} if self._takes_positions else {}),
                )
        finally:
            self._last.reset(token)
        cache.close(counts)
        return Stepped(out.logits[:, -1].float(), last.hidden_BH if capture else None)

    @contextmanager
    def running(
        self,
        mixture: Mixture | None,
        *,
        embeddings_BTH: Float[Tensor, "B T H"] | None = None,
        mask_BT: Bool[Tensor, "B T"] | None = None,
    ) -> Iterator[States]:
        """Put a mixture in force for any call of the module, or of a part of it; gives what its gates decide.

        The first dimension of what a site sees is its rows, those between it and the last its tokens. Gates
        that decide once do so on `embeddings_BTH`, where given. Raises what `forward` raises.
        """
        states: dict[AbstractGate, State] = {}
        if mixture is not None and embeddings_BTH is not None:
            seen_BT = embeddings_BTH.new_ones(embeddings_BTH.shape[:2], dtype=torch.bool)
            for gate in _deciding(mixture):
                states[gate] = gate.prepare(embeddings_BTH, seen_BT if mask_BT is None else mask_BT)
        span = self._span_of(mixture, states, None, None, 0)
        with self._during(span):
            yield {} if span is None else span.states

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """`context_fn` of `torch.utils.checkpoint`: a recompute sees the mixture that its forward saw."""
        return nullcontext(), self._during(self._span.get())

    def gradient_checkpointing_enable(self) -> None:
        """Have Hugging Face recompute each layer in the backward, under the mixture of its own forward.

        Only layers in training mode are checkpointed, so the layers, not the modules inside them, are put
        into it: dropout stays off. Call it after `module.eval()` or `module.train()`. Raises ConfigError for
        a module that is no Hugging Face model; give `checkpoint_contexts` to its own checkpoints.
        """
        if not isinstance(self.module, PreTrainedModel):
            raise ConfigError(
                f"{type(self.module).__name__} is no Hugging Face model; use checkpoint_contexts"
            )
        options = {"use_reentrant": False, "context_fn": self.checkpoint_contexts}
        with warnings.catch_warnings():
            # The new name is not in every release that we support; the old one stays until v6 of theirs.
            warnings.simplefilter("ignore", FutureWarning)
            self.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        for layer in self._checkpointed:
            layer.training = True

    def _check_ids(self, ids_BT: Tensor) -> None:
        """Raise ShapeError for token ids without an embedding: those of tokens that were added, say."""
        wrong = ids_BT[(ids_BT < 0) | (ids_BT >= self.vocab_size)]
        if self.vocab_size and len(wrong):
            raise ShapeError(
                f"token id {int(wrong[0])} is outside the vocabulary of {self.vocab_size}: the tokenizer "
                "knows a token that the base has no embedding for; resize those, or take the token out"
            )

    @contextmanager
    def _during(self, span: Span | None) -> Iterator[None]:
        token = self._span.set(span)
        try:
            yield
        finally:
            self._span.reset(token)

    def _span_of(
        self, mixture: Mixture | None, states: States | None, rows: int | None, columns: int | None, past: int
    ) -> Span | None:
        if mixture is None or not mixture.terms:
            return None
        terms = tuple(Acting(term, self._checked(term.bank)) for term in mixture.terms)
        return Span(terms, dict(states or {}), rows, columns, past)

    def _checked(self, bank: Bank) -> StackedFactors:
        """The factors of a bank that fits; looked at once per bank."""
        if bank not in self._factors:
            if bank.base and bank.base != self.fingerprint:
                raise BaseMismatchError(
                    f"the bank of {', '.join(bank.names[:3])} belongs to base {bank.base}, "
                    f"this one is {self.fingerprint}; load the base that it was made for"
                )
            sites = {site.path: site for site in self.sites}
            for site in bank.a:
                if site.path not in sites:
                    raise UnknownNameError(
                        f"the bank changes {site.path}, which is no site of this host"
                        f"{nearest(site.path, sites)}"
                    )
                if sites[site.path] != site:
                    raise ShapeError(f"the bank changes {site}, this host has {sites[site.path]}")
            _check_finite(bank)
            self._factors[bank] = {site.path: (bank.a[site], bank.b[site]) for site in bank.a}
        return self._factors[bank]

    def _decide(self, mixture: Mixture, prompt: _Prompt) -> States:
        new = [gate for gate in _deciding(mixture) if gate not in prompt.states]
        if new:
            embeddings_BTH = self.embed(prompt.ids_BT)
            seen_BT = torch.ones_like(prompt.ids_BT) if prompt.mask_BT is None else prompt.mask_BT
            for gate in new:
                prompt.states[gate] = gate.prepare(embeddings_BTH, seen_BT.bool())
        return prompt.states


def _check_finite(bank: Bank) -> None:
    """Raise WeightsError for NaN or infinity, which would reach other rows: 0 times NaN is NaN.

    A bank that is learned is left alone: its training looks at every loss.
    """
    tensors = [*bank.a.values(), *bank.b.values()]
    if any(tensor.requires_grad for tensor in tensors):
        return
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_meta:
            continue
        found.setdefault(tensor.device, []).append(tensor.isfinite().all())
    if not all(bool(torch.stack(finite).all()) for finite in found.values()):  # waits once for each device
        raise WeightsError(f"the bank of {', '.join(bank.names[:3])} holds NaN or infinity; take it out")


def _deciding(mixture: Mixture) -> list[AbstractGate]:
    """The gates that decide once."""
    # terms may share one
    gates = dict.fromkeys(term.gate for term in mixture.terms if isinstance(term.gate, AbstractGate))
    return [gate for gate in gates if type(gate).prepare is not AbstractGate.prepare]
