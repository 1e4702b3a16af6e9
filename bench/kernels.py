"""Decode, routing and memory against peers: random Llama, width 1024, 4 layers, float32, adapters of rank 8.

Adapters are on `q_proj` and `v_proj`, PEFT's choice for Llama, unless a row says otherwise. Contestants take
turns in one process, over the same weights; the outputs of each pair are compared first. `min` and `max` are
those of the ratios of single turns. Memory is the most bytes that tensors held at once above the weights, by
the allocations of every operator: counted, so one step is enough.

`python -P bench/kernels.py --table` measures the kernels that `src/weft/host/choose.py` chooses between.
"""

import argparse
import copy
import gc
import statistics
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import ArrowConfig, PeftModel, create_arrow_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from weft.adapters import save
from weft.host import Host, kernels
from weft.host.plan import PerToken
from weft.host.span import Span
from weft.hyper import HeadMConfig, T2LConfig, build_t2l
from weft.types import AbstractGate, Bank, Mixture, Site, State, Term, TopK

ADAPTERS, RANK, TOP_K = 16, 8, 2
ATTENTION = ("q_proj", "v_proj")
CACHED = 128
PROMPTS = (4, 256)
"""Rows and tokens of the prefill that is routed."""
SFT = (8, 64)
"""Rows and tokens of the hypernetwork's step."""
TOLERANCE = 1e-5


class ArrowGate(AbstractGate):
    """Arrow's weights as PEFT computes them: softmax over the k largest |<x, v_e>|, without a norm of x."""

    def __init__(self, prototypes: Mapping[str, Tensor], *, k: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.prototypes = prototypes
        self.k = k
        self.temperature = temperature

    def assign(self, x_BTI: Tensor, site: Site, state: State) -> tuple[TopK, State]:
        scores_BTK = (x_BTI @ self.prototypes[site.path].T).abs()
        best_BTk, index_BTk = scores_BTK.topk(self.k, -1)
        return TopK(index_BTk, (best_BTk / self.temperature).softmax(-1)), state


def run(*, repeats: int = 9) -> list[dict[str, object]]:
    """Every row of the table."""
    base = make_base()
    host = Host(copy_of(base), target_modules=ATTENTION)
    bank = make_bank(host.sites, ADAPTERS)
    peer = make_arrow(copy_of(base), bank)
    rows = [*_decode(host, bank, peer, 3 * repeats), *_routing(host, bank, peer, repeats)]
    return [*rows, _memory(base, "all-linear"), _memory(base, ATTENTION)]


def make_base(**sizes: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    usual = {
        "vocab_size": 4096,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 1024,
    }
    return LlamaForCausalLM(LlamaConfig(**(usual | sizes))).eval().requires_grad_(False)


def copy_of(model: nn.Module) -> Any:
    """Modules of its own over the same weights, so that no side has warmer ones."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def make_bank(sites: Sequence[Site], count: int, rank: int = RANK) -> Bank:
    chance = torch.Generator().manual_seed(0)
    return Bank(
        names=tuple(f"adapter-{k}" for k in range(count)),
        a={s: torch.randn(count, rank, s.in_features, generator=chance) * s.in_features**-0.5 for s in sites},
        b={s: torch.randn(count, s.out_features, rank, generator=chance) * 0.02 for s in sites},
    )


def make_arrow(base: LlamaForCausalLM, bank: Bank) -> PeftModel:
    """PEFT's Arrow over a bank; adapter k is called `task_k`."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in bank.names]
        for k, path in enumerate(paths):
            save(bank[k], path)
        config = ArrowConfig(top_k=TOP_K, router_temperature=1.0)
        return create_arrow_model(base, paths, config).eval()


def prototypes_of(peer: PeftModel, sites: Sequence[Site]) -> dict[str, Tensor]:
    """What PEFT routes by; it computes them in its first forward."""
    layers = peer.get_base_model()
    return {s.path: layers.get_submodule(s.path).lora_arrow["arrow_router"].prototypes for s in sites}


@torch.no_grad()
def _decode(host: Host, bank: Bank, peer: PeftModel, repeats: int) -> list[dict[str, object]]:
    """Sixteen rows, one new token each, under sixteen adapters in no particular order."""
    chance = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(4096, (ADAPTERS, CACHED), generator=chance)
    token_BT = ids_BT[:, -1:]
    order = torch.randperm(ADAPTERS, generator=chance).tolist()
    mixed, single = Mixture.rows(bank, order), Mixture.of(bank[0])
    names = [f"task_{k}" for k in order]
    cache = DynamicCache()
    host(ids_BT, mixed, cache=cache)

    def peft_mixed() -> Tensor:
        return peer(token_BT, past_key_values=cache, adapter_names=names).logits

    sides = {
        "mixed": lambda: host(token_BT, mixed, cache=cache).logits,
        "single": lambda: host(token_BT, single, cache=cache).logits,
        "peft": peft_mixed,
    }
    back = {name: _then_crop(side, cache) for name, side in sides.items()}
    _same(back["mixed"](), back["peft"]())
    seconds = _take_turns(back, repeats)
    what = f"decode step, {ADAPTERS} rows, {ADAPTERS} adapters"
    return [
        _row(f"{what} / one adapter", "ms", seconds, "mixed", "weft, one adapter", "single", "<= 1.15"),
        _row(f"PEFT / weft: {what}", "ms", seconds, "mixed", "PEFT adapter_names", "peft", "> 1"),
    ]


def _then_crop(side: Callable[[], Tensor], cache: DynamicCache) -> Callable[[], Tensor]:
    def step() -> Tensor:
        out = side()
        cache.crop(-1)
        return out

    return step


@torch.no_grad()
def _routing(host: Host, bank: Bank, peer: PeftModel, repeats: int) -> list[dict[str, object]]:
    """Top-2 of 16 at every token and site: the routed change alone, and the whole prefill around it."""
    ids_BT = torch.randint(4096, PROMPTS, generator=torch.Generator().manual_seed(2))
    seen = {}
    layers = peer.get_base_model()
    hooks = [
        layers.get_submodule(s.path).base_layer.register_forward_hook(_keep(seen, s)) for s in host.sites
    ]
    want = peer(ids_BT, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    gate = ArrowGate(prototypes_of(peer, host.sites), k=TOP_K)
    mixture = Mixture((Term(bank, gate),))
    _same(host(ids_BT, mixture).logits, want)
    factors = {site.path: (bank.a[site], bank.b[site]) for site in host.sites}
    span = Span(((mixture.terms[0], factors),), rows=PROMPTS[0], columns=PROMPTS[1])

    def weft_sites() -> list[Tensor]:
        return [span.change(site, x, out) for site, (x, out) in seen.items()]

    def peft_sites() -> list[Tensor]:
        outs = []
        for site, (x, out) in seen.items():
            layer = layers.get_submodule(site.path)
            variant = layer.lora_variant["arrow_router"]
            outs.append(variant.forward(layer, active_adapter="arrow_router", x=x, result=out))
        return outs

    _same(torch.cat(weft_sites()), torch.cat(peft_sites()))
    sites = _take_turns({"weft": weft_sites, "peft": peft_sites}, repeats)
    whole = _take_turns(
        {
            "weft": lambda: host(ids_BT, mixture),
            "peft": lambda: peer(ids_BT, use_cache=False),
        },
        max(7, repeats // 2),
    )
    what = f"top-{TOP_K} of {ADAPTERS} per token, {PROMPTS[0]} x {PROMPTS[1]} tokens"
    return [
        _row(
            f"PEFT / weft: {what}, routing and adapters alone",
            "ms",
            sites,
            "weft",
            "PEFT Arrow",
            "peft",
            ">= 8",
        ),
        _row(f"PEFT / weft: {what}, whole forward", "ms", whole, "weft", "PEFT Arrow", "peft", None),
    ]


def _keep(seen: dict[Site, tuple[Tensor, Tensor]], site: Site) -> Callable[..., None]:
    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A copy, since PEFT adds to the output in place.
        seen[site] = inputs[0], output.clone()

    return keep


def _memory(base: LlamaForCausalLM, target_modules: str | Sequence[str]) -> dict[str, object]:
    """A training step of a hypernetwork with one cue per row."""
    torch.manual_seed(3)
    rows, columns = SFT
    host = Host(copy_of(base), target_modules=target_modules)
    network = build_t2l(T2LConfig(head=HeadMConfig(kind="M"), rank=RANK, dropout=0.0), host.sites, dim=384)
    cues_BD = torch.randn(rows, 384)
    ids_BT = torch.randint(4096, (rows, columns))
    for parameter in network.parameters():
        # Heads begin with B = 0, where half of the gradients would be zero.
        nn.init.normal_(parameter, std=0.02)

    def weft(bank: Bank) -> Tensor:
        return host(ids_BT, Mixture.rows(bank, list(range(rows))), labels=ids_BT).loss

    expanded = copy_of(base)

    def per_token(bank: Bank) -> Tensor:
        hooks = [
            expanded.get_submodule(s.path).register_forward_hook(_expand(bank.a[s], bank.b[s]))
            for s in bank.sites
        ]
        loss = expanded(ids_BT, labels=ids_BT, use_cache=False).loss
        for hook in hooks:
            hook.remove()
        return loss

    def step(forward: Callable[[Bank], Tensor]) -> tuple[int, Tensor]:
        network.zero_grad()
        with PeakBytes([*base.parameters(), *network.parameters()]) as peak:
            factors = network(cues_BD)
            names = tuple(str(row) for row in range(rows))
            bank = Bank(
                names, {s: a for s, (a, _) in factors.items()}, {s: b for s, (_, b) in factors.items()}
            )
            forward(bank).backward()
        return peak.most, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    (ours, gradient), (theirs, expected) = step(weft), step(per_token)
    _same(gradient / expected.abs().max(), expected / expected.abs().max())
    names = target_modules if isinstance(target_modules, str) else ", ".join(target_modules)
    ratio = round(theirs / ours, 2)
    return {
        "what": f"expanded / weft: peak memory of a hypernetwork step, {rows} x {columns} tokens, {names}",
        "unit": "MB",
        "weft": round(ours / 1e6, 1),
        "peer": "factors repeated per token",
        "peer's": round(theirs / 1e6, 1),
        "ratio": ratio,
        "min": ratio,
        "max": ratio,
        "goal": ">= 5" if target_modules == "all-linear" else None,
        "repeats": 1,
    }


def _expand(a_BRI: Tensor, b_BOR: Tensor) -> Callable[..., Tensor]:
    """What released hypernetwork code does: every token gets its own copy of its row's factors."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tokens = inputs[0].shape[1]
        a_NRI, b_NOR = a_BRI.repeat_interleave(tokens, 0), b_BOR.repeat_interleave(tokens, 0)
        change_NO = torch.bmm(b_NOR, torch.bmm(a_NRI, inputs[0].flatten(0, 1)[..., None]))[..., 0]
        return output + change_NO.view_as(output)

    return add


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made inside it held at once; those in `known` do not count."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.most = self._now = 0
        self._seen = WeakIdKeyDictionary({tensor.untyped_storage(): None for tensor in known})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self._seen:
                storage = leaf.untyped_storage()
                self._seen[storage] = None
                self._now += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())
        self.most = max(self.most, self._now)
        return out

    def _release(self, size: int) -> None:
        self._now -= size


def _take_turns(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, in turns, after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for turn in range(repeats + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _row(
    what: str,
    unit: str,
    seconds: Mapping[str, list[float]],
    ours: str,
    peer: str,
    theirs: str,
    goal: str | None,
) -> dict[str, object]:
    """Medians of both sides; the ratio is the one that `what` names: ours / theirs, or theirs / ours."""
    above, below = (theirs, ours) if what.startswith("PEFT / weft") else (ours, theirs)
    turns = [x / y for x, y in zip(seconds[above], seconds[below], strict=True)]
    medians = {name: statistics.median(of_side) for name, of_side in seconds.items()}
    return {
        "what": what,
        "unit": unit,
        "weft": round(1e3 * medians[ours], 2),
        "peer": peer,
        "peer's": round(1e3 * medians[theirs], 2),
        "ratio": round(medians[above] / medians[below], 2),
        "min": round(min(turns), 2),
        "max": round(max(turns), 2),
        "goal": goal,
        "repeats": len(turns),
    }


def _same(ours: Tensor, theirs: Tensor) -> None:
    """Refuse to compare the speed of things that are not equal."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def table(*, width: int = 768, repeats: int = 7) -> list[dict[str, object]]:
    """Milliseconds of single kernels: the fastest of so many runs, without gradients."""
    lines = []
    for tokens in (16, 32, 64, 256, 1024):
        for count in (2, 4, 8, 16, 32, 64):
            x_BTI = torch.randn(1, tokens, width)
            a_KRI, b_KOR = torch.randn(count, RANK, width), torch.randn(count, width, RANK)
            for k in (1, 2):
                if k <= count:
                    index_BTk = torch.rand(1, tokens, count).topk(k, -1).indices
                    plan = PerToken(index_BTk, torch.ones(index_BTk.shape))
                    fastest = _fastest(_per_token(x_BTI, a_KRI, b_KOR, plan), repeats)
                    lines.append({"tokens": tokens, "K": count, "R": RANK, "k": k} | fastest)
    for columns in (1, 4, 16, 64):
        for rows in (4, 16, 64, 256):
            x_BTI = torch.randn(rows, columns, width)
            a_KRI, b_KOR = torch.randn(rows, RANK, width), torch.randn(rows, width, RANK)
            fastest = _fastest(_per_row(x_BTI, a_KRI, b_KOR, torch.randperm(rows)), repeats)
            lines.append({"tokens per row": columns, "B": rows, "R": RANK} | fastest)
    return lines


def _per_token(
    x_BTI: Tensor, a_KRI: Tensor, b_KOR: Tensor, plan: PerToken
) -> dict[str, Callable[[], Tensor]]:
    count = len(a_KRI)

    def concat() -> Tensor:
        weight_BTK = x_BTI.new_zeros(*x_BTI.shape[:2], count)
        return kernels.concat(x_BTI, a_KRI, b_KOR, weight_BTK.scatter_add(2, plan.index_BTk, plan.weight_BTk))

    return {"concat, ms": concat, "grouped, ms": lambda: _grouped(x_BTI, a_KRI, b_KOR, plan)}


def _per_row(x_BTI: Tensor, a_KRI: Tensor, b_KOR: Tensor, index_B: Tensor) -> dict[str, Callable[[], Tensor]]:
    index_BTk = index_B[:, None, None].expand(-1, x_BTI.shape[1], -1)
    return {
        "bmm, ms": lambda: kernels.bmm(x_BTI, a_KRI.index_select(0, index_B), b_KOR.index_select(0, index_B)),
        "grouped, ms": lambda: _grouped(x_BTI, a_KRI, b_KOR, PerToken(index_BTk, None)),
    }


def _grouped(x_BTI: Tensor, a_KRI: Tensor, b_KOR: Tensor, plan: PerToken) -> Tensor:
    order_M, ends_K = PerToken(plan.index_BTk, None).sorted(*x_BTI.shape[:2], len(a_KRI))
    weight_M = None if plan.weight_BTk is None else plan.weight_BTk.flatten().index_select(0, order_M)
    return kernels.grouped(x_BTI.flatten(0, 1), a_KRI, b_KOR, order_M, ends_K, weight_M)


def _fastest(sides: Mapping[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    return {name: round(1e3 * min(of_side), 3) for name, of_side in _take_turns(sides, repeats).items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="the kernels alone, for choose.py")
    for line in table() if parser.parse_args().table else run():
        print(line)
