"""The engine's mixed adapters on more of SmolLM2-135M than q_proj and v_proj; sides and lengths of `engine`.

Three sets of targets: q_proj, k_proj, v_proj and o_proj of every layer at rank 4; the same at rank 8; and all
linear layers at rank 8, as QLoRA has it, where 16 adapters hold a third as many parameters as the base. The
first two are compiled too.
"""

from typing import Any

from bench.engine import lines

from weft.host import Host

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
SETS = (
    ("q, k, v, o", ATTENTION, 4, True),
    ("q, k, v, o", ATTENTION, 8, True),
    ("all linear", ALL_LINEAR, 8, False),
)
"""Name, target modules, rank, whether compiled steps are measured."""


def run(*, repeats: int = 7) -> list[dict[str, Any]]:
    """A line per set and contestant."""
    rows = []
    for name, targets, rank, compiled in SETS:
        base = Host.from_pretrained("weft/smollm2", dtype="float32").module  # no hooks of the set before
        label = f"SmolLM2-135M, {name}, rank {rank}"
        rows += lines(label, base, repeats, targets=targets, rank=rank, unequal=False, compiled=compiled)
    return rows
