"""A text -> an adapter that knows it, whatever the text's length: chunk by chunk, in one pass each.

    chunk -> hidden states of the frozen base -> perceiver or accumulator -> (A, B) of every site

What a chunk becomes depends on its own tokens alone. With `gate` one in which nothing is said becomes exact
zeros (silence.py). Chunks go together in one of two ways, by the network:

    perceiver      delta = sum of the chunks' deltas, cut back to `rank_budget` by truncated SVD (concat)
    accumulator    A is shared, B adds up: a state of fixed size, an update of fixed cost (additive)

Doc-to-LoRA (arXiv 2602.15902) concatenates without bound; Generative Adapter (arXiv 2411.05877) adds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from weft.adapters import concat, truncate
from weft.config import Config, Size
from weft.errors import ConfigError, CueError, ShapeError
from weft.files import found_near
from weft.host import Host
from weft.hyper.accumulator import Accumulator, AccumulatorConfig
from weft.hyper.made import bank_of
from weft.hyper.perceiver import Perceiver, PerceiverConfig
from weft.hyper.silence import Silence
from weft.hyper.slug import slug
from weft.hyper.states import Inputs
from weft.saved import WEIGHTS, Saved, SavedSite, check_base, describe, list_sites, load_module, write
from weft.tasks.chat import inner_ids
from weft.types import AbstractHyperNetwork, Adapter, Bank, Cue, Document, Factors, Site

T = TypeVar("T")
_TOGETHER = 16
"""Chunks of a stream that are read in one forward."""
_LARGEST_RANK = 4096
"""Of the chunks of one document side by side, before any cut."""


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in their order; the last one may be shorter. Nothing is read ahead."""
    rest = iter(items)
    while several := list(islice(rest, size)):
        yield several


class ContextConfig(Config):
    """How a text becomes an adapter."""

    reader: PerceiverConfig | AccumulatorConfig = PerceiverConfig()
    chunk: Size = 32
    """Tokens that are pressed at a time, at most; an end right behind them comes with them."""
    ends: tuple[int, ...] = ()
    """Tokens that end a chunk, so that none is cut in the middle of what it says: that of a line break."""
    gate: Size | None = None
    """Width of the gate that lets a chunk say nothing, exactly; there is none unless given."""
    rank_budget: Size = 64
    """Rank that concatenated chunks are cut back to; an accumulator has its own."""


class SavedContext(Saved):
    """What `config.json` holds."""

    sort: ClassVar[str] = "context network"
    kind: Literal["context"]
    name: str
    network: ContextConfig
    sites: tuple[SavedSite, ...]
    """In the order of the network's groups."""


class Read(NamedTuple):
    """What a frozen base makes of chunks, which does not depend on the network that reads on."""

    states_BMTH: Float[Tensor, "B M T H"]
    """Of every layer."""
    inputs: Inputs
    """What the sites read."""
    mask_BT: Bool[Tensor, "B T"]

    def of(self, index_N: Int[Tensor, " N"]) -> Read:
        """Some of the chunks."""
        inputs = {site: x_BTI[index_N] for site, x_BTI in self.inputs.items()}
        return Read(self.states_BMTH[index_N], inputs, self.mask_BT[index_N])


class ContextNetwork(AbstractHyperNetwork):
    """Makes adapters of texts for one base, which also reads the texts; the base is no part of its state.

    Raises ConfigError for a host that is no language model, or chunks that end at a token that it lacks.
    """

    def __init__(
        self,
        host: Host,
        config: ContextConfig,
        *,
        sites: Sequence[Site] | None = None,
        name: str = "context",
        provenance: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        if not isinstance(host.module, PreTrainedModel):
            raise ConfigError("only a language model can read a text; this host has none")
        if strange := [token_id for token_id in config.ends if not 0 <= token_id < host.vocab_size]:
            raise ConfigError(f"ends: {strange[0]} is no token of this base, which has {host.vocab_size}")
        shape = host.module.config.get_text_config()
        sizes = {"depth": shape.num_hidden_layers + 1, "width": shape.hidden_size}
        sites = host.sites if sites is None else sites
        self.reader: Perceiver | Accumulator
        if isinstance(config.reader, PerceiverConfig):
            self.reader = Perceiver(config.reader, sites, **sizes)
        else:
            self.reader = Accumulator(config.reader, sites, **sizes)
        self.silence = None if config.gate is None else Silence(**sizes, latent=config.gate)
        self.config = config
        self.name = name
        self.provenance = dict(provenance)
        self._frozen = (host,)

    @property
    def host(self) -> Host:
        """The base that reads."""
        return self._frozen[0]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it makes adapters for."""
        return self.reader.sites

    @property
    def additive(self) -> bool:
        """Whether adapters of chunks add up without growing."""
        return isinstance(self.reader, Accumulator)

    @property
    def longest(self) -> int:
        """Tokens of a chunk, at most: `config.chunk`, and an end behind them."""
        return self.config.chunk + bool(self.config.ends)

    def press(self, chunks: Sequence[Sequence[int]]) -> Bank:
        """One adapter per chunk of token ids, differentiable; scaling is folded into b.

        Raises CueError for an empty chunk.
        """
        return self.hear(chunks)[0]

    def hear(self, chunks: Sequence[Sequence[int]]) -> tuple[Bank, Float[Tensor, " K"]]:
        """What `press` makes, and how far each chunk is heard: 0 for an idle one, 1 without a gate.

        Raises CueError for an empty chunk.
        """
        read = self.read(chunks)
        open_K = self._open(read)
        return self._say(read, open_K), open_K

    def hear_documents(
        self,
        documents: Sequence[Sequence[Sequence[int]]],
        read: Callable[[Sequence[Sequence[int]]], Read] | None = None,
    ) -> tuple[Bank, Float[Tensor, " K"]]:
        """One adapter per document of chunks, as `gather` makes it, and how far each chunk is heard.

        Differentiable; an accumulator adds its states up, which are much smaller than adapters. `read` takes
        the place of `self.read`. Raises CueError for an empty chunk, ShapeError for a document without any.
        """
        counts = [len(chunks) for chunks in documents]
        chunks = [chunk for document in documents for chunk in document]
        states = (read or self.read)(chunks)
        open_K = self._open(states)
        if not isinstance(self.reader, Accumulator):
            return self.gather(self._say(states, open_K), counts), open_K
        if not all(counts):
            raise ShapeError(f"documents of {counts} chunks")
        owner_K = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(open_K.device)
        heard_DK = F.one_hot(owner_K, len(counts)).mT * open_K
        state_KSVM = self.reader.accumulate(*states)
        made = self.reader.factors(torch.einsum("dk,ksvm->dsvm", heard_DK, state_KSVM))
        names = [f"document-{d}" for d in range(len(counts))]
        return bank_of(made, names, self.config.reader.scaling, self.host.fingerprint), open_K

    def fit_whitening(self, chunks: Sequence[Sequence[int]]) -> None:
        """Let keys be whitened by what the sites read of ordinary texts. Raises CueError for no chunks."""
        if not chunks:
            raise CueError("there is no text to fit the whitening on")
        seen: dict[Site, list[Tensor]] = {site: [] for site in self.sites}
        for several in batched(chunks, _TOGETHER):
            read = self.read(several)
            for site, x_BTI in read.inputs.items():
                seen[site].append(x_BTI[read.mask_BT])
        self.reader.whiten.fit({site: torch.cat(parts) for site, parts in seen.items()})

    def gather(self, chunks: Bank, counts: Sequence[int]) -> Bank:
        """One adapter per document from those of its chunks, which follow each other; differentiable.

        Concatenated ones are not cut back here: that is for adapters, by `join`. Raises ShapeError for other
        numbers of chunks.
        """
        if sum(counts) != len(chunks) or not all(counts):
            raise ShapeError(f"{len(chunks)} chunks, and documents of {list(counts)}")
        names = tuple(f"document-{d}" for d in range(len(counts)))
        owner_K = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        place_K = torch.cat([torch.arange(count) for count in counts])
        a, b = {}, {}
        for site in chunks.sites:
            a_KRI, b_KOR = chunks.a[site], chunks.b[site]
            if self.additive:
                a[site] = a_KRI[:1].expand(len(counts), -1, -1)
                zeros = b_KOR.new_zeros(len(counts), *b_KOR.shape[1:])
                b[site] = zeros.index_add(0, owner_K.to(b_KOR.device), b_KOR)
            else:
                # [documents, chunks, ...] with zeros where a document has fewer
                spread_a = a_KRI.new_zeros(len(counts), max(counts), *a_KRI.shape[1:])
                spread_b = b_KOR.new_zeros(len(counts), max(counts), *b_KOR.mT.shape[1:])
                spread_a = spread_a.index_put((owner_K, place_K), a_KRI)
                spread_b = spread_b.index_put((owner_K, place_K), b_KOR.mT)
                a[site], b[site] = spread_a.flatten(1, 2), spread_b.flatten(1, 2).mT
        return Bank(names, a, b, chunks.base)

    def generate(self, cues: Sequence[Cue] | Float[Tensor, "B D"]) -> Bank:
        """One adapter per document, in one differentiable forward.

        Raises CueError for what is no document, is empty, or has so many chunks that their ranks side by side
        pass what memory allows: such a document is streamed, by `adapt_stream`.
        """
        if isinstance(cues, Tensor):
            raise CueError("a context network reads documents; it has no use for vectors")
        chunks, counts = [], []
        for cue in cues:
            if not isinstance(cue, Document):
                raise CueError(f"a context network reads documents, not a {type(cue).__name__.lower()}")
            of_one = list(self.chunks(self.tokens(cue.text)))
            if not of_one:
                raise CueError(f"the base's tokenizer finds nothing to read in {cue.text[:40]!r}")
            rank = self.config.reader.rank * (1 if self.additive else len(of_one))
            if rank > _LARGEST_RANK:
                raise CueError(
                    f"a document of {len(of_one)} chunks makes an adapter of rank {rank}, at most "
                    f"{_LARGEST_RANK} fit into memory at once; stream it (weft adapt --document)"
                )
            chunks += of_one
            counts.append(len(of_one))
        bank = self.gather(self.press(chunks), counts)
        return Bank(tuple(slug(cue) for cue in cues), bank.a, bank.b, bank.base)

    def chunks(self, ids: Iterable[int]) -> Iterator[list[int]]:
        """Token ids cut into chunks, behind a token that ends one or where a chunk is full.

        An end right behind a full chunk comes with it: alone it would be a chunk that no text means.
        """
        chunk: list[int] = []
        for token_id in ids:
            ends = token_id in self.config.ends
            if len(chunk) == self.config.chunk and not ends:
                yield chunk
                chunk = []
            chunk.append(token_id)
            if ends or len(chunk) == self.longest:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def leaving(self, ids: Iterable[int], over: int) -> list[list[int]]:
        """The fewest whole chunks from the front that hold at least `over` tokens: what leaves a window."""
        chunks = []
        for chunk in self.chunks(ids):
            if over <= 0:
                break
            chunks.append(chunk)
            over -= len(chunk)
        return chunks

    @torch.no_grad()
    def join(self, adapters: Sequence[Adapter]) -> Adapter:
        """One adapter that knows what all of them know, cut back to the budget where they are concatenated.

        One that says nothing leaves the others as they are, bit for bit, and takes no rank. Documents that
        were joined are taken apart by joining the others again. Raises ShapeError for none.
        """
        if not adapters:
            raise ShapeError("there is no adapter to join")
        adapters = [adapter for adapter in adapters if says(adapter)] or adapters[:1]
        if len(adapters) == 1:
            return adapters[0]
        if not self.additive:
            return truncate(concat(adapters, [1.0] * len(adapters)), self.config.rank_budget)
        first = adapters[0]
        factors = {}
        for site, (a_RI, _, scaling) in first.factors.items():
            # one after another: a sum that does not depend on how many are joined at a time
            b_OR = reduce(torch.add, (adapter.factors[site].b_OR for adapter in adapters))
            factors[site] = Factors(a_RI, b_OR, scaling)
        return replace(first, factors=factors)

    def adapt_stream(self, ids: Iterable[int], *, name: str = "document") -> Adapter:
        """One adapter from token ids that arrive one after another; at most a few chunks are held at a time.

        Raises CueError where none arrives.
        """
        known: Adapter | None = None
        for several in batched(self.chunks(ids), _TOGETHER):
            known = self.learn(known, several)
        if known is None:
            raise CueError("there is nothing to read in an empty document")
        about = {key: self.provenance[key] for key in ("seed", "base_model") if key in self.provenance}
        return replace(known, name=name, provenance={"hypernetwork": self.name, **about})

    @torch.no_grad()
    def learn(self, known: Adapter | None, chunks: Sequence[Sequence[int]]) -> Adapter:
        """What is known with some chunks more. Raises CueError for an empty chunk."""
        training = self.training
        self.eval()
        try:
            read = self.read(chunks)
            open_B = self._open(read)
            heard_N = open_B.nonzero()[:, 0]
            if known is not None and not len(heard_N):
                return known
            if not len(heard_N):
                heard_N = heard_N.new_zeros(1)  # an adapter of zeros
            bank = self._say(read.of(heard_N), open_B[heard_N])  # idle ones cost no more than the reading
        finally:
            self.train(training)
        return self.join([*([] if known is None else [known]), *(bank[k] for k in range(len(bank)))])

    def adapt(self, cue: Cue | str, *, name: str | None = None) -> Adapter:
        """One adapter for one document (text is one). Raises CueError."""
        cue = Document(cue) if isinstance(cue, str) else cue
        if not isinstance(cue, Document):
            raise CueError(f"a context network reads documents, not a {type(cue).__name__.lower()}")
        return self.adapt_stream(self.tokens(cue.text), name=slug(cue) if name is None else name)

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> None:
        """Write `config.json` and `model.safetensors`; one that is there is replaced. Raises SaveError."""
        values = {
            "kind": "context",
            "name": self.name,
            "base": self.host.fingerprint,
            "network": self.config.model_dump(),
            "sites": list_sites(self.sites),
            "provenance": self.provenance,
        }
        write(folder, SavedContext, values, {key: x.to(dtype) for key, x in self.state_dict().items()})

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, host: Host | None = None
    ) -> ContextNetwork:
        """Read a folder, in evaluation mode; the base that it names is loaded unless given.

        Raises MissingFileError, ConfigError, BaseMismatchError and WeightsError as `HyperNetwork` does.
        """
        saved, folder = describe(name_or_folder, SavedContext)
        if host is None:
            named = saved.provenance.get("base_model")
            if not isinstance(named, str):
                raise ConfigError(f"{folder} does not say which base it is for; give --base")
            host = Host.from_pretrained(found_near(named, folder))
        check_base(saved, folder, host.fingerprint)
        sites = [Site(*values) for values in saved.sites]
        about = {"sites": sites, "name": saved.name, "provenance": saved.provenance}
        base = host
        network = load_module(folder / WEIGHTS, lambda: cls(base, saved.network, **about))
        return network.to(host.device).eval()

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text. Raises ConfigError for a base without a tokenizer."""
        if self.host.tokenizer is None:
            raise ConfigError("this host has no tokenizer, so it reads no text")
        return self.host.tokenizer.encode(text, add_special_tokens=False)

    def inner_tokens(self, text: str) -> list[int]:
        """Token ids of a text that stands behind another, for a base with a tokenizer."""
        return inner_ids(self.host.tokenizer, text)

    def _open(self, read: Read) -> Float[Tensor, " B"]:
        """How far each chunk is heard."""
        if self.silence is None:
            return read.states_BMTH.new_ones(len(read.states_BMTH))
        return self.silence(read.states_BMTH, read.mask_BT)

    def _say(self, read: Read, open_B: Float[Tensor, " B"]) -> Bank:
        made = self.reader(*read)
        if self.silence is not None:
            made = {site: (a_BRI, b_BOR * open_B[:, None, None]) for site, (a_BRI, b_BOR) in made.items()}
        names = [f"chunk-{k}" for k in range(len(open_B))]
        return bank_of(made, names, self.config.reader.scaling, self.host.fingerprint)

    @torch.no_grad()
    def read(self, chunks: Sequence[Sequence[int]]) -> Read:
        """What the bare base makes of each chunk alone, from position 0. Raises CueError for an empty one."""
        if not all(chunks):
            raise CueError("there is nothing to read in an empty chunk")
        length_B = torch.tensor([len(chunk) for chunk in chunks])
        ids_BT = torch.zeros(len(chunks), int(length_B.max()), dtype=torch.long)
        for ids_T, chunk in zip(ids_BT, chunks, strict=True):
            ids_T[: len(chunk)] = torch.tensor(chunk)
        mask_BT = torch.arange(ids_BT.shape[1]) < length_B[:, None]
        mask_BT = mask_BT.to(self.host.device)
        inputs: dict[Site, Tensor] = {}
        handles = [
            self.host.module.get_submodule(site.path).register_forward_pre_hook(_keep(inputs, site))
            for site in self.sites
        ]
        try:
            out = self.host.forward(ids_BT.to(self.host.device), mask_BT=mask_BT, output_hidden_states=True)
        finally:
            for handle in handles:
                handle.remove()
        return Read(torch.stack(out.hidden_states, 1).float(), inputs, mask_BT)


def says(adapter: Adapter) -> bool:
    """Whether anything of a text was heard: what idle chunks alone become is zeros."""
    return any(bool(factors.b_OR.any()) for factors in adapter.factors.values())


def _keep(inputs: dict[Site, Tensor], site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[site] = given[0].float()

    return keep
