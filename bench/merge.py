"""SVD merge of 8 rank-16 adapters at width 2048, float32: from factors, and PEFT's from the dense delta.

Both sides merge the same adapters at one matrix of 2048 x 2048 and take turns in one process; the factors of
each are compared first, in float64, with the truncated SVD of the dense sum. PEFT merges into a model that
holds the sources; what loading costs is not counted, and what it writes besides the SVD is little. `min` and
`max` are those of the ratios of single turns.
"""

import gc
import statistics
import time

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from weft.adapters import delta, site_at
from weft.merging import merge
from weft.types import Adapter, Factors

ADAPTERS, RANK, WIDTH = 8, 16, 2048
MERGED = "merged"
WEIGHTS = [1 / ADAPTERS] * ADAPTERS
TOLERANCE = 1e-6
"""Relative error of the merge here; PEFT's float32 SVD of a dense matrix is given a hundred times as much."""


class OneMatrix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.matrix = nn.Linear(width, width, bias=False)


def run(*, repeats: int = 3, width: int = WIDTH) -> list[dict[str, object]]:
    """The ratio, and both errors."""
    adapters = make_adapters(width)
    peer = make_peer(adapters, width)

    def weft() -> Factors:
        return next(iter(merge("svd", adapters, weights=WEIGHTS, rank=RANK).factors.values()))

    def peft() -> None:
        peer.add_weighted_adapter(peer_names(), WEIGHTS, MERGED, combination_type="svd", svd_rank=RANK)

    peft()
    exact = best(adapters)
    errors = [float((_double(found) - exact).norm() / exact.norm()) for found in (weft(), of_peer(peer))]
    if errors[0] > TOLERANCE or errors[1] > 100 * TOLERANCE:
        raise AssertionError(f"not the same merge: {errors}")
    seconds: dict[str, list[float]] = {"weft": [], "peft": []}
    gc.collect()
    for _ in range(repeats):
        peer.delete_adapter(MERGED)
        for name, side in (("weft", weft), ("peft", peft)):
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    turns = [theirs / ours for ours, theirs in zip(seconds["weft"], seconds["peft"], strict=True)]
    medians = {name: statistics.median(of_side) for name, of_side in seconds.items()}
    return [
        {
            "what": f"PEFT / weft: svd merge, {ADAPTERS} rank-{RANK} adapters, one {width} x {width} matrix",
            "unit": "ms",
            "weft": round(1e3 * medians["weft"], 2),
            "peer": "PEFT add_weighted_adapter",
            "peer's": round(1e3 * medians["peft"], 2),
            "ratio": round(medians["peft"] / medians["weft"], 1),
            "min": round(min(turns), 1),
            "max": round(max(turns), 1),
            "goal": ">= 100",
            "relative error": float(f"{errors[0]:.1e}"),
            "peer's error": float(f"{errors[1]:.1e}"),
            "repeats": repeats,
        }
    ]


def make_adapters(width: int) -> list[Adapter]:
    chance = torch.Generator().manual_seed(0)
    site = site_at("matrix", width, width)
    adapters = []
    for k in range(ADAPTERS):
        a_RI = torch.randn(RANK, width, generator=chance) * width**-0.5
        b_OR = torch.randn(width, RANK, generator=chance) * 0.02
        adapters.append(Adapter({site: Factors(a_RI, b_OR, 2.0)}, name=peer_names()[k]))
    return adapters


def make_peer(adapters: list[Adapter], width: int) -> PeftModel:
    """PEFT over one matrix, holding the same adapters."""
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["matrix"])
    peer = get_peft_model(OneMatrix(width), config, adapter_name=adapters[0].name)
    for adapter in adapters[1:]:
        peer.add_adapter(adapter.name, config)
    layer = peer.base_model.model.matrix
    with torch.no_grad():
        for adapter in adapters:
            (factors,) = adapter.factors.values()
            layer.lora_A[adapter.name].weight.copy_(factors.a_RI)
            layer.lora_B[adapter.name].weight.copy_(factors.b_OR)
    return peer


def of_peer(peer: PeftModel) -> Factors:
    """What PEFT has merged."""
    layer = peer.base_model.model.matrix
    a_RI, b_OR = layer.lora_A[MERGED].weight.detach(), layer.lora_B[MERGED].weight.detach()
    return Factors(a_RI, b_OR, layer.scaling[MERGED])


def peer_names() -> list[str]:
    return [f"adapter_{k}" for k in range(ADAPTERS)]


def best(adapters: list[Adapter]) -> Tensor:
    """The truncated SVD of the dense sum, in float64."""
    total = sum(w * _double(f) for a, w in zip(adapters, WEIGHTS, strict=True) for f in a.factors.values())
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    return u[:, :RANK] @ torch.diag(s[:RANK]) @ vh[:RANK]


def _double(factors: Factors) -> Tensor:
    return delta(Factors(factors.a_RI.double(), factors.b_OR.double(), factors.scaling))
