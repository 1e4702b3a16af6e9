"""A tree of LoRAs beside one LoRA: a forward by hard descent, per token, 8 rows of 512 tokens, float32.

Random Llama, width 768, 2 layers; rank 8 on all linear modules; the first layer decides for both. All leaves
hold the same factors as the one LoRA, so the outputs are compared first, while the tokens of every row go to
all leaves. Contestants take turns in one process, over the same weights; medians. `min` and `max` are those
of the ratios of single turns; `least load` and `largest load` those of the leaves, in units of their mean.
"""

import gc
import statistics
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weft.host import Host
from weft.route import Tree, TreeGate, full
from weft.route.tree import leaf_name
from weft.route.tree_losses import counts, even_start
from weft.types import Bank, Mixture

DEPTHS = (0, 1, 2, 3, 4, 5, 6)
GOALS = {6: "<= 1.25"}
ROWS, COLUMNS, RANK = 8, 512, 8
TOLERANCE = 1e-4


@torch.no_grad()
def run(
    *, repeats: int = 7, depths: tuple[int, ...] = DEPTHS, width: int = 768, columns: int = COLUMNS
) -> list[dict[str, Any]]:
    """One line per depth: its time over that of one LoRA."""
    host = Host(make_base(width, columns))
    ids_BT = torch.randint(512, (ROWS, columns), generator=torch.Generator().manual_seed(1))
    one = make_lora(host)
    trees = {depth: make_tree(host, one, depth, ids_BT, width) for depth in depths}
    mixtures = {"LoRA": Mixture.of(one)} | {f"tree {d}": tree.mixture for d, tree in trees.items()}
    want = host(ids_BT, mixtures["LoRA"]).logits
    for mixture in mixtures.values():
        torch.testing.assert_close(host(ids_BT, mixture).logits, want, rtol=0, atol=TOLERANCE)
    seconds: dict[str, list[float]] = {name: [] for name in mixtures}
    gc.collect()
    for _ in range(repeats):
        for name, mixture in mixtures.items():
            start = time.perf_counter()
            host(ids_BT, mixture)
            seconds[name].append(time.perf_counter() - start)
    return [_row(seconds, depth, trees[depth], host, ids_BT) for depth in depths]


def make_base(width: int, columns: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=columns,
    )
    return LlamaForCausalLM(config).eval()


def make_lora(host: Host) -> Bank:
    chance = torch.Generator().manual_seed(0)
    sites = host.sites
    return Bank(
        names=("lora",),
        a={s: torch.randn(1, RANK, s.in_features, generator=chance) * s.in_features**-0.5 for s in sites},
        b={s: torch.randn(1, s.out_features, RANK, generator=chance) * 0.02 for s in sites},
    )


def make_tree(host: Host, one: Bank, depth: int, ids_BT: torch.Tensor, width: int) -> Tree:
    """Leaves that are all alike, under nodes that share out these tokens evenly, as a trained tree does."""
    paths = full(depth)
    gate = TreeGate(paths, width).eval().requires_grad_(False)
    alike = one.select(torch.zeros(len(paths), dtype=torch.long))
    tree = Tree(Bank(tuple(map(leaf_name, paths)), alike.a, alike.b), gate)
    gate.bias_LN[0] += even_start(_logits(host, tree, ids_BT).flatten(0, 1), paths)
    return tree


def _logits(host: Host, tree: Tree, ids_BT: torch.Tensor) -> torch.Tensor:
    """What the nodes say of every token."""
    return host(ids_BT, tree.mixture).states[tree.gate][0].logits


def _row(
    seconds: dict[str, list[float]], depth: int, tree: Tree, host: Host, ids_BT: torch.Tensor
) -> dict[str, Any]:
    ours, theirs = seconds[f"tree {depth}"], seconds["LoRA"]
    turns = [x / y for x, y in zip(ours, theirs, strict=True)]
    leaves = len(tree.gate.leaves)
    load_K = counts(tree.gate.leaf_of(_logits(host, tree, ids_BT)), leaves) * leaves / ids_BT.numel()
    return {
        "what": f"tree of depth {depth} / one LoRA: {ids_BT.shape[0]} x {ids_BT.shape[1]} tokens",
        "unit": "ms",
        "weft": round(1e3 * statistics.median(ours), 1),
        "peer": "one LoRA",
        "peer's": round(1e3 * statistics.median(theirs), 1),
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 3),
        "min": round(min(turns), 2),
        "max": round(max(turns), 2),
        "goal": GOALS.get(depth),
        "least load": round(float(load_K.min()), 2),
        "largest load": round(float(load_K.max()), 2),
        "repeats": len(turns),
    }
