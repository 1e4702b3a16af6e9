"""Greedy decoding, tokens per second: Weft's loop of rows beside Hugging Face and PEFT, medians.

All sides: the same base in float32, 16 prompts of 24 tokens, 32 new tokens each, rank 8 on q_proj and v_proj
(PEFT's default targets for Llama). PEFT mixes adapters by `generate(adapter_names=...)`. Then 64 requests of
unequal length, through the loop as rows leave and join, against batches of 16 that run until their longest
row ends: once of 8, 16, ..., 64 new tokens, as many of each, and once of exponential lengths of mean 32, from
4 to 128.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from weft.engine import Loop, Sampling
from weft.host import Host, Pool
from weft.rows import Request, Share
from weft.types import Adapter, Factors

ROWS, PROMPT, NEW, RANK, ADAPTERS = 16, 24, 32, 8, 16
TARGETS = ("q_proj", "v_proj")
MANY = 64


def run(*, repeats: int = 7) -> list[dict[str, Any]]:
    """A line per base and contestant."""
    return [*lines("random Llama, 8 layers", random_llama(), repeats), *_smollm2(repeats)]


def _smollm2(repeats: int) -> list[dict[str, Any]]:
    return lines("SmolLM2-135M", Host.from_pretrained("weft/smollm2", dtype="float32").module, repeats)


def random_llama(**sizes: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    usual = {
        "vocab_size": 8192,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 512,
    }
    return LlamaForCausalLM(LlamaConfig(**usual | sizes, pad_token_id=0)).eval()


def lines(
    name: str,
    module: Any,
    repeats: int,
    *,
    targets: tuple[str, ...] = TARGETS,
    rank: int = RANK,
    unequal: bool = True,
    compiled: bool = True,
) -> list[dict[str, Any]]:
    """A line per contestant on one base; `unequal` adds the 64 requests of unequal length."""
    module.generation_config.eos_token_id = None
    chance = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(3, module.config.vocab_size, (ROWS, PROMPT), generator=chance)
    host = Host(module, target_modules=list(targets))
    adapters = [_adapter(host, k, rank) for k in range(ADAPTERS)]
    shares = {
        "base": [Share()] * ROWS,
        "one adapter": [Share.of(adapters[0])] * ROWS,
        "8 adapters": [Share.of(adapters[i % 8]) for i in range(ROWS)],
        "16 adapters": [Share.of(adapters[i % ADAPTERS]) for i in range(ROWS)],
    }
    sides: dict[str, Callable[[], int]] = {"Hugging Face, base": lambda: _hugging_face(module, ids_BT)}
    for kind, own in shares.items():
        sides[f"Weft, {kind}"] = lambda own=own: _weft(host, ids_BT, own)
    twin = _peft(module, adapters, targets)
    names = [str(i % ADAPTERS) for i in range(ROWS)]
    sides["PEFT, 16 adapters"] = lambda: _hugging_face(twin, ids_BT, adapter_names=names)
    for kind, lengths in {"even": _even(), "exponential": _exponential()}.items() if unequal else ():
        many = [(ids_BT[i % ROWS].tolist(), Share(), length) for i, length in enumerate(lengths)]
        sides[f"Weft, 64 {kind} lengths, padded batches"] = lambda many=many: _padded(host, many)
        sides[f"Weft, 64 {kind} lengths, loop"] = lambda many=many: _spoken(host, many)
    if compiled:
        fixed = Host(module, target_modules=list(targets))
        fixed.pool = Pool(fixed.sites, slots=ADAPTERS, r=rank, base=fixed.fingerprint)
        for adapter in adapters:
            fixed.pool.put(adapter)
        fixed.compile(rows=ROWS, columns=64)
        sides["Weft, 16 adapters, compiled"] = lambda: _weft(fixed, ids_BT, shares["16 adapters"])
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side, decode in sides.items():
            start = time.perf_counter()
            tokens = decode()
            if repeat:  # the first one warms up
                rates[side].append(tokens / (time.perf_counter() - start))
    median = {side: statistics.median(rate) for side, rate in rates.items()}
    return [
        {
            "base": name,
            "side": side,
            "tokens/s": rate,
            "of Hugging Face": rate / median["Hugging Face, base"],
            "of one adapter": rate / median["Weft, one adapter"],
            "of PEFT mixed": rate / median["PEFT, 16 adapters"],
        }
        for side, rate in median.items()
    ]


def _adapter(host: Host, k: int, rank: int = RANK) -> Adapter:
    chance = torch.Generator().manual_seed(k)
    factors = {}
    for site in host.sites:
        a_RI = torch.randn(rank, site.in_features, generator=chance) * 0.02
        b_OR = torch.randn(site.out_features, rank, generator=chance) * 0.02
        factors[site] = Factors(a_RI, b_OR, 1.0)
    return Adapter(factors, name=str(k))


def _peft(module: Any, adapters: list[Adapter], targets: tuple[str, ...]) -> Any:
    """A copy of the base with the same adapters, as PEFT holds them."""
    copied = type(module)(module.config).eval()
    copied.load_state_dict(module.state_dict())
    copied.generation_config.eos_token_id = None
    options = LoraConfig(r=adapters[0].rank, lora_alpha=adapters[0].rank, target_modules=list(targets))
    peft = get_peft_model(copied, options, adapter_name="0")
    for k in range(1, len(adapters)):
        peft.add_adapter(str(k), options)
    for k, adapter in enumerate(adapters):
        for site, (a_RI, b_OR, _) in adapter.factors.items():
            layer = peft.base_model.model.get_submodule(site.path)
            layer.lora_A[str(k)].weight.data.copy_(a_RI)
            layer.lora_B[str(k)].weight.data.copy_(b_OR)
    return peft.eval()


def _hugging_face(module: Any, ids_BT: torch.Tensor, **options: Any) -> int:
    with torch.no_grad():
        out = module.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
    return out.shape[0] * (out.shape[1] - ids_BT.shape[1])


def _weft(host: Host, ids_BT: torch.Tensor, shares: list[Share]) -> int:
    return _spoken(host, [(ids.tolist(), share, NEW) for ids, share in zip(ids_BT, shares, strict=True)])


def _spoken(host: Host, wanted: list[tuple[list[int], Share, int]]) -> int:
    loop = Loop(host, max_rows=ROWS)
    for i, (ids, share, new) in enumerate(wanted):
        loop.submit(Request(str(i), tuple(ids), share), sampling=Sampling(max_new_tokens=new))
    said = 0
    while loop.busy:
        said += len(loop.step())
    return said


def _even() -> list[int]:
    return [8 * (1 + i * 5 % 8) for i in range(MANY)]


def _exponential() -> list[int]:
    """The quantiles of an exponential distribution of mean 32, in an order that mixes them."""
    places = [(i * 37 % MANY + 0.5) / MANY for i in range(MANY)]
    return [min(max(round(-32 * math.log(1 - place)), 4), 128) for place in places]


def _padded(host: Host, wanted: list[tuple[list[int], Share, int]]) -> int:
    """The same requests, 16 at a time, each batch as long as its longest; what was asked for counts."""
    for start in range(0, MANY, ROWS):
        batch = wanted[start : start + ROWS]
        longest = max(new for *_, new in batch)
        _spoken(host, [(ids, share, longest) for ids, share, _ in batch])
    return sum(new for *_, new in wanted)
